"""Long work of the event loop, a piece at a time: whoever is answered in no time must not wait for many of them."""

import asyncio
from collections import deque


class Turnstile:
    """Lets one through in each pass of the event loop, in the order in which they came.

    Example:
        >>> import asyncio
        >>> from treadle.serving.turnstile import Turnstile
        >>> async def main():
        ...     turnstile, said = Turnstile(), []
        ...     async def long(name):
        ...         await turnstile.passed()
        ...         said.append(name)
        ...     async def short():
        ...         said.append("short")
        ...     await asyncio.gather(long("first"), long("second"), short())
        ...     return said
        >>> asyncio.run(main())
        ['first', 'short', 'second']
    """

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def passed(self) -> None:
        """Wait for one's turn, if another has had the one of this pass."""
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            loop.call_soon(self._next)
            return
        self._waiting.append(loop.create_future())
        await self._waiting[-1]

    def _next(self) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():  # else nobody waits any more
                future.set_result(None)
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._taken = False
