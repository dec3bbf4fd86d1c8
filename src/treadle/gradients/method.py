"""What every method of taking gradients back in time has."""

from treadle.engines import Call, Result


class GradientMethod:
    """How gradients go back in time: one of `FullBPTT`, `TruncatedBPTT`, `CheckpointedBPTT`."""

    def run(self, call: Call) -> Result:
        """Run a cell over a sequence that has steps."""
        raise NotImplementedError
