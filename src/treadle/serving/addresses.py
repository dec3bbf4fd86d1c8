"""Where a server listens, and who may be let in there."""

import ipaddress
import re
import socket
from typing import NamedTuple

from treadle.errors import DataError


class Address(NamedTuple):
    """A host and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, option: str, text: str) -> "Address | None":
        """``127.0.0.1:8000``, ``[::1]:8000`` or ``localhost:0``; None for ``none``.

        Raises:
            DataError: it is something else.

        Example:
            >>> from treadle.serving.addresses import Address
            >>> Address.parse("http", "[::1]:8000")
            Address(host='::1', port=8000)
        """
        if text == "none":
            return None
        found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:\[\]/]+):([0-9]{1,5})", text)
        if found is None or int(found[2]) > 65535:
            raise DataError(f"`{option}={text}` is no host and port, such as 127.0.0.1:8000 (or none)")
        return cls(found[1].strip("[]"), int(found[2]))

    @property
    def is_loopback(self) -> bool:
        """Whether only processes of this machine reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def listen(self, option: str) -> socket.socket:
        """A socket that listens here.

        Raises:
            OSError: the port is taken, or the host is none of this machine.
        """
        try:
            kind, _, _, _, place = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            listening = socket.socket(kind, socket.SOCK_STREAM)
        except OSError as error:
            raise OSError(f"`{option}={self}`: {error.strerror or error}") from None
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            listening.listen(1024)
            listening.setblocking(False)
        except OSError as error:
            listening.close()
            raise OSError(f"`{option}={self}`: {error.strerror or error}: name another") from None
        return listening


def refuse_clashes(addresses: dict[str, Address | None]) -> None:
    """Refuse to listen nowhere, or twice in one place.

    Raises:
        DataError: with the addresses.
    """
    if addresses.get("http") is None and addresses.get("grpc") is None:
        raise DataError("there is nowhere to listen: name an address for `http` or `grpc`")
    seen: dict[Address, str] = {}
    for option, address in addresses.items():
        if address is not None and address.port and address in seen:
            raise DataError(f"`{seen[address]}` and `{option}` are both {address}: name another for one of them")
        if address is not None:
            seen[address] = option


def refuse_strangers(addresses: dict[str, Address | None], has_tokens: bool) -> None:
    """Refuse to listen where other machines reach the server, unless clients have tokens.

    Raises:
        DataError: with the address.
    """
    for option, address in addresses.items():
        if address is not None and not address.is_loopback and not has_tokens:
            raise DataError(
                f"`{option}={address}` can be reached from other machines: pass `token_file`, a file with a token"
                " a line"
            )
