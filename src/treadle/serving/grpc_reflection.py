"""gRPC's own reflection service: whoever has no .proto file of a server is told what is in it."""

import functools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from treadle.serving.grpc_service import owner_of
from treadle.serving.proto_file import ProtoFile
from treadle.serving.tokens import Tokens

PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
"""The same service twice: most clients ask for the older one as well, some for nothing else."""
NOT_FOUND = 5
"""gRPC's number."""


class ReflectionService:
    """Tells of files.

    Args:
        package: under which it is called, one of `PACKAGES`.
        tokens: who may ask.
        others: files of services, besides its own.
    """

    def __init__(self, package: str, tokens: Tokens, others: Sequence[ProtoFile]):
        self.file, self.tokens = reflection_file(package), tokens
        self.files = [*others, *map(reflection_file, PACKAGES)]
        self._new = self.file.message("ServerReflectionResponse")

    async def ServerReflectionInfo(self, messages: Any, context: Any) -> AsyncIterator[Any]:
        """Each question answered."""
        owner_of(self.tokens, context)
        async for message in messages:
            response = self._new(valid_host=message.host, original_request=message)
            self._answer(message, response)
            yield response

    def _answer(self, message: Any, response: Any) -> None:
        which = message.WhichOneof("message_request")
        found: list[ProtoFile] = []
        if which == "list_services":
            for one in self.files:
                response.list_services_response.service.add(name=one.service)
            return
        if which == "file_by_filename":
            found = [one for one in self.files if one.file.name == message.file_by_filename]
        elif which == "file_containing_symbol":
            found = [one for one in self.files if one.has(message.file_containing_symbol)]
        elif which == "all_extension_numbers_of_type" and any(
            one.has(message.all_extension_numbers_of_type) for one in self.files
        ):
            # Messages of proto3 have no extensions.
            response.all_extension_numbers_response.base_type_name = message.all_extension_numbers_of_type
            return
        if found:
            response.file_descriptor_response.file_descriptor_proto.extend(one.content() for one in found)
            return
        response.error_response.error_code = NOT_FOUND
        response.error_response.error_message = "there is no such file, symbol or extension: ask for list_services"


@functools.cache
def reflection_file(package: str) -> ProtoFile:
    """The service's own file, read once."""
    return ProtoFile(Path(__file__).with_name("reflection.proto"), package)
