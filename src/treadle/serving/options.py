"""How a server schedules, what it keeps, and its limits."""

import dataclasses

ON_RELOAD = ("finish", "reset", "refuse")
"""What becomes of sequences whose model is replaced."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How a server schedules, what it keeps, and its limits.

    Attributes:
        rows: most sequences that step together.
        wait: seconds to wait for more of them; 0 steps whatever is ready.
        idle: seconds after which a sequence expires that nobody asks for a step.
        deadline: seconds that a request waits for its step at most, unless it says less.
        sequences: most sequences that live at one time, for each model.
        queue: most requests that wait, for each model; once it is half full, one of each sequence.
        pending: most requests of one sequence that wait.
        request_bytes: most bytes of a request.
        steps: most steps of a block, and most rows of a request without a sequence.
        rate: requests a second of one token, on average; None for any number.
        keep_every: steps after which the state of a sequence is kept, if there is a store.
        on_reload: ``"finish"``: sequences finish on the version that they began with; ``"reset"``: they go on from the
            initial state of the new one; ``"refuse"``: they end, and the reason is kept.
    """

    rows: int = 16
    wait: float = 0.0
    idle: float = 300.0
    deadline: float = 10.0
    sequences: int = 100_000
    queue: int = 1024
    pending: int = 64
    request_bytes: int = 16 << 20
    steps: int = 65_536
    rate: float | None = None
    keep_every: int = 1
    on_reload: str = "finish"

    def __post_init__(self) -> None:
        for name in ("rows", "sequences", "queue", "pending", "request_bytes", "steps", "keep_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}={getattr(self, name)}` has to be 1 or more")
        if self.on_reload not in ON_RELOAD:
            raise ValueError(f"`on_reload={self.on_reload!r}` is none of {', '.join(ON_RELOAD)}")
