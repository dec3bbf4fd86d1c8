"""How many requests a second an owner may send."""

from treadle.serving.refusals import Kind, Refused


class Rates:
    """A bucket for each owner, which fills at a rate and holds a second's worth.

    Args:
        rate: requests a second; None for any number.

    Example:
        >>> from treadle.serving.rates import Rates
        >>> rates = Rates(2)
        >>> rates.take("anna", now=0.0)
        >>> rates.take("anna", now=0.1)
        >>> rates.take("anna", now=0.2)
        Traceback (most recent call last):
        ...
        treadle.serving.refusals.Refused: more than 2 requests a second
    """

    def __init__(self, rate: float | None):
        self.rate = rate
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, owner: str, now: float, count: int = 1) -> None:
        """Count a request.

        Raises:
            Refused: the owner has sent too many.
        """
        if self.rate is None:
            return
        most = max(self.rate, 1.0)
        left, at = self._left.get(owner, (most, now))
        left = min(most, left + (now - at) * self.rate)
        if left < min(count, most):
            self._left[owner] = left, now
            raise Refused(Kind.BUSY, f"more than {self.rate:g} requests a second", (count - left) / self.rate)
        self._left[owner] = left - count, now
