"""Fallbacks are audible: what is slower than a user may think is said, once."""

import functools
import logging

logger = logging.getLogger("treadle")


@functools.cache
def say_once(text: str) -> None:
    """A warning in the log, the first time."""
    logger.warning(text)
