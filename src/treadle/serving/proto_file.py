"""Reads a .proto file when the program runs, so that no generated code is kept; as much of proto3 as ours has."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_WORDS = re.compile(r"//[^\n]*|\"[^\"]*\"|[\w.]+|[^\s]")
_Field = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    name: getattr(_Field, f"TYPE_{name.upper()}")
    for name in ("bool", "bytes", "double", "float", "int32", "int64", "string", "uint32", "uint64")
}


class Method(NamedTuple):
    """One call of a service: the classes of what it takes and gives, and which of them are streams."""

    name: str
    request: Any
    response: Any
    request_streams: bool
    response_streams: bool


class ProtoFile:
    """The messages and services of a .proto file.

    In a pool of descriptors of its own: another package may have messages of the same names.

    Args:
        path: of the file.
        package: what to call its package; None for what it says itself.

    Raises:
        ValueError: it has something that this does not read.
    """

    def __init__(self, path: Path, package: str | None = None):
        self.file, self._package = descriptor_pb2.FileDescriptorProto(syntax="proto3"), package
        words = [word for word in _WORDS.findall(path.read_text()) if not word.startswith("//")]
        self._words: Iterator[str] = iter(words)
        for word in self._words:
            self._read_top(word)
        self.file.name = f"{self.file.package.replace('.', '/')}/{path.name}"
        pool = descriptor_pool.DescriptorPool()
        pool.Add(self.file)  # pyright: ignore[reportAttributeAccessIssue]
        self._pool: Any = pool

    @property
    def service(self) -> str:
        """The whole name of its service."""
        return f"{self.file.package}.{self.file.service[0].name}"

    def has(self, symbol: str) -> bool:
        """Whether it declares a message, an enum, a service, or a part of one, of that whole name."""
        try:
            self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return False
        return True

    def content(self) -> bytes:
        """The file as a FileDescriptorProto, with every type's whole name."""
        found = descriptor_pb2.FileDescriptorProto()
        self._pool.FindFileByName(self.file.name).CopyToProto(found)
        return found.SerializeToString()

    def message(self, name: str) -> Any:
        """The class of a message."""
        found = self._pool.FindMessageTypeByName(f"{self.file.package}.{name.rpartition('.')[2]}")
        return message_factory.GetMessageClass(found)

    def methods(self) -> list[Method]:
        """The calls of its service."""
        return [
            Method(
                one.name,
                self.message(one.input_type),
                self.message(one.output_type),
                one.client_streaming,
                one.server_streaming,
            )
            for service in self.file.service
            for one in service.method
        ]

    def _read_top(self, word: str) -> None:
        if word == "syntax":
            self._until(";")
        elif word == "package":
            (said,) = self._until(";")
            self.file.package = self._package or said
        elif word == "message":
            self._read_message(self.file.message_type.add())
        elif word == "enum":
            self._read_enum(self.file.enum_type.add())
        elif word == "service":
            self._read_service(self.file.service.add())
        else:
            raise ValueError(f"{self.file.name}: {word!r} is not read here")

    def _until(self, end: str) -> list[str]:
        found = []
        for word in self._words:
            if word == end:
                return found
            found.append(word)
        raise ValueError(f"{self.file.name} ends before {end!r}")

    def _read_message(self, message: Any) -> None:
        message.name = self._until("{")[0]
        for word in self._words:
            if word == "}":
                return
            if word == "message":
                self._read_message(message.nested_type.add())
            elif word == "enum":
                self._read_enum(message.enum_type.add())
            elif word == "oneof":
                message.oneof_decl.add(name=self._until("{")[0])
                for inner in self._words:
                    if inner == "}":
                        break
                    self._add_field(message, [inner, *self._until(";")]).oneof_index = len(message.oneof_decl) - 1
            else:
                self._add_field(message, [word, *self._until(";")])

    def _add_field(self, message: Any, words: list[str]) -> Any:
        *kind, name, _, number = words
        field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
        if kind[0] == "map":  # map<string, Kind>, which is a repeated message of key and value
            entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
            entry.options.map_entry = True
            self._add_field(entry, [kind[2], "key", "=", "1"])
            self._add_field(entry, [kind[4], "value", "=", "2"])
            field.label, field.type = _Field.LABEL_REPEATED, _Field.TYPE_MESSAGE
            field.type_name = entry.name
            return field
        if kind[0] == "repeated":
            field.label = _Field.LABEL_REPEATED
        if kind[-1] in SCALARS:
            field.type = SCALARS[kind[-1]]
        else:
            field.type_name = kind[-1]  # a message or an enum, which the pool finds out
        return field

    def _read_enum(self, enum: Any) -> None:
        enum.name = self._until("{")[0]
        for word in self._words:
            if word == "}":
                return
            enum.value.add(name=word, number=int(self._until(";")[1]))

    def _read_service(self, service: Any) -> None:
        service.name = self._until("{")[0]
        for word in self._words:
            if word == "}":
                return
            assert word == "rpc"
            name, *given = self._until(")")
            taken = self._until(";")
            service.method.add(
                name=name,
                input_type=f".{self.file.package}.{given[-1]}",
                output_type=f".{self.file.package}.{taken[-2]}",
                client_streaming="stream" in given,
                server_streaming="stream" in taken,
            )
