"""Times taken beside somebody else's work count for nothing."""

from benchmarks.bars import ratios
from benchmarks.registry import Measurement, Result
from benchmarks.timing import Spread


def test_only_quiet_cases_count():
    measurement = Measurement(ratios={"torch.nn": Spread(2.0, 2.0, 2.0)})
    quiet = Result("quiet", "LSTM", measurement=measurement)
    loud = Result("loud", "LSTM", measurement=measurement, others=0.2)
    assert ratios([quiet, loud], "torch.nn") == [2.0]
