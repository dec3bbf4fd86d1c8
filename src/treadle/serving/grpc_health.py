"""gRPC's own health service, which load balancers and Kubernetes ask whether to send somebody here."""

from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

from treadle.serving.dataplane import Dataplane
from treadle.serving.proto_file import ProtoFile
from treadle.serving.refusals import Kind, Refused


class HealthService:
    """Answers anybody, as those who ask have no tokens.

    Args:
        plane: whose health it is.
        services: the names that may be asked for, besides the empty one, which is the whole server.
    """

    def __init__(self, plane: Dataplane, services: Collection[str]):
        self.plane, self.file = plane, ProtoFile(Path(__file__).with_name("health.proto"))
        self.services = ("", *services)
        self._new = self.file.message("HealthCheckResponse")

    def _status(self, service: str) -> str:
        if service not in self.services:
            return "SERVICE_UNKNOWN"
        return "SERVING" if self.plane.ready else "NOT_SERVING"

    async def Check(self, message: Any, context: Any) -> Any:
        """How it is now."""
        status = self._status(message.service)
        if status == "SERVICE_UNKNOWN":
            known = ", ".join(name for name in self.services if name)
            raise Refused(Kind.NOT_FOUND, f"there is no service {message.service!r:.80}, but {known}")
        return {"status": status}

    async def List(self, message: Any, context: Any) -> Any:
        """How all services are now."""
        return {"statuses": {name: {"status": self._status(name)} for name in self.services}}

    async def Watch(self, message: Any, context: Any) -> AsyncIterator[Any]:
        """How it is now, and at once when that changes, until the server ends."""
        yield self._new(status=self._status(message.service))
        await self.plane.ends.wait()
        if message.service in self.services:
            yield self._new(status=self._status(message.service))
