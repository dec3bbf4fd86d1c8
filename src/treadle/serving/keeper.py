"""Keeps states elsewhere, in a thread of its own: the event loop waits for no disk."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from treadle.serving.records import Record
from treadle.serving.sequences import Key
from treadle.serving.stores import Store, Write, stamp

logger = logging.getLogger("treadle.serving")


class Keeper:
    """Reads and writes records of sequences in a store, one call after another.

    Args:
        store: where they are.
        like: for each model, a state of its network.
    """

    def __init__(self, store: Store, like: Callable[[str], Any]):
        self.store, self._like = store, like
        self._thread = ThreadPoolExecutor(1, "treadle-keep")
        self.failed = 0

    def put(
        self, records: Sequence[tuple[Record, str | None]], then: Callable[[list[str | None] | Exception], None]
    ) -> None:
        """Write records, each with the stamp of the one that it takes the place of (None: of whatever is there).

        ``then`` is called in the event loop once all are safe, with their stamps, None where another server has put
        another record there; or with what went wrong.
        """

        def write() -> list[str | None]:
            writes = [Write((one.model, *one.key), one.content(), expected) for one, expected in records]
            done = self.store.put(writes)
            return [stamp(one.content) if written else None for one, written in zip(writes, done, strict=True)]

        self._later(write, then)

    def get(self, model: str, key: Key, then: Callable[[tuple[Record, str] | Exception | None], None]) -> None:
        """Fetch a record; ``then`` is called with it and its stamp, with None if there is none, or with what went
        wrong."""

        def fetch() -> tuple[Record, str] | None:
            content = self.store.get((model, *key))
            return None if content is None else (Record.read(content, self._like(model)), stamp(content))

        self._later(fetch, then)

    def _later(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        def done(future: "asyncio.Future[Any]") -> None:
            error = future.exception()
            if error is not None:
                self.failed += 1
                logger.error("states cannot be kept or read: %s", error)
            then(error if error is not None else future.result())  # pyright: ignore[reportArgumentType]

        asyncio.get_running_loop().run_in_executor(self._thread, work).add_done_callback(done)

    def close(self) -> None:
        """Wait for what is being written."""
        self._thread.shutdown(wait=True)
        self.store.close()
