"""Work that is done before it is asked for, in a thread."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """The same items in the same order, up to ``depth`` of them made in advance by a thread.

    What making them raises is raised here, after all items before it. Ends the thread when it is closed itself.
    """
    if not depth:
        yield from items
        return
    made: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    closed = threading.Event()

    def work() -> None:
        end: BaseException = StopIteration()
        try:
            for item in items:
                made.put((item, None))
                if closed.is_set():
                    return
        except BaseException as error:
            end = error
        made.put((None, end))

    thread = threading.Thread(target=work, name="treadle streams", daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        closed.set()
        while not made.empty():  # a thread that waits for room finds some, and then that it is to end
            made.get_nowait()
        thread.join(1)  # but a source may wait for its next element for ever
