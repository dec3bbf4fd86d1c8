"""Who a client is: the token that it sends. Ids of sequences belong to the token's owner."""

import hashlib
import os

from treadle.atomic import regular
from treadle.errors import DataError
from treadle.serving.refusals import Kind, Refused

SHORTEST = 16
"""Characters of a token; shorter ones can be guessed."""
MOST_BYTES = 1 << 24
"""Of a file of tokens."""


class Tokens:
    """The tokens that a server takes; none at all means that everybody is let in, as one owner.

    Args:
        owners: by token, whose it is.

    Example:
        >>> from treadle.serving.tokens import Tokens
        >>> tokens = Tokens({"a-long-enough-token": "anna"})
        >>> tokens.owner("Bearer a-long-enough-token")
        'anna'
        >>> tokens.owner(None)
        Traceback (most recent call last):
        ...
        treadle.serving.refusals.Refused: no token was sent, or one that is not known: send Authorization: Bearer TOKEN
    """

    def __init__(self, owners: dict[str, str] | None = None):
        self._anybody = owners is None
        # Looked up by hash, so that the time of a comparison says nothing of a token.
        self._owners = {_hash(token): owner for token, owner in (owners or {}).items()}

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Tokens":
        """A file with a token a line, or an owner and a token; empty lines and what follows ``#`` do not count.

        Raises:
            DataError: a line is neither, or a token is short; a token occurs twice; it is no text, or far too long.
            OSError: the file cannot be read.
        """
        owners: dict[str, str] = {}
        with open(regular(path), "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise DataError(f"{path} is longer than {MOST_BYTES:,} bytes: name a file with a token a line")
        try:
            lines = content.decode().splitlines()
        except UnicodeDecodeError:
            raise DataError(f"{path} is not UTF-8 text: save the file as UTF-8, with a token a line") from None
        for number, line in enumerate(lines, 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            if len(words) > 2 or len(words[-1]) < SHORTEST or not words[-1].isascii():
                raise DataError(
                    f"{path}, line {number}: it has to be a token of {SHORTEST} or more ASCII characters, or an"
                    " owner and a token"
                )
            if words[-1] in owners:
                raise DataError(f"{path}, line {number}: this token is there twice")
            owners[words[-1]] = words[0] if len(words) == 2 else _hash(words[0])[:12]
        if not owners:
            raise DataError(f"{path} has no tokens: write one a line")
        return cls(owners)

    def owner(self, authorization: str | None) -> str:
        """Whose token an ``Authorization`` header has.

        Raises:
            Refused: there is none, or it is not known.
        """
        if self._anybody:
            return ""
        kind, _, token = (authorization or "").partition(" ")
        found = self._owners.get(_hash(token.strip())) if kind.lower() == "bearer" else None
        if found is None:
            raise Refused(
                Kind.NO_TOKEN, "no token was sent, or one that is not known: send Authorization: Bearer TOKEN"
            )
        return found


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
