"""etcd's messages, made from `etcd.proto` beside this module when it is imported: protobuf reads and writes them.

The file is small and in a small part of the language (messages, enums, oneof, repeated), which is all that is read
here; so there is no generated code to keep in step with a version of protobuf.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD: Final = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "bool": _FIELD.TYPE_BOOL,
    "bytes": _FIELD.TYPE_BYTES,
    "int64": _FIELD.TYPE_INT64,
    "string": _FIELD.TYPE_STRING,
    "uint64": _FIELD.TYPE_UINT64,
}
_COMMENT: Final = re.compile(r"//[^\n]*")
_TOKEN: Final = re.compile(r'"[^"]*"|[\w.]+|[{}=;]')


def _parse(text: str) -> Any:
    """The description of a file."""
    tokens = _TOKEN.findall(_COMMENT.sub("", text))
    tokens.reverse()  # the next one is the last
    take = tokens.pop
    file = descriptor_pb2.FileDescriptorProto(name="teleport/etcd.proto", syntax="proto3")

    def enum() -> None:
        made = file.enum_type.add(name=take())
        take()
        while (name := take()) != "}":
            take()
            made.value.add(name=name, number=int(take()))
            take()

    def fields(message: Any, group: int | None) -> None:
        take()
        while (word := take()) != "}":
            if word == "oneof":
                message.oneof_decl.add(name=take())
                fields(message, len(message.oneof_decl) - 1)
                continue
            repeated = word == "repeated"
            kind, name = take() if repeated else word, take()
            take()
            made = message.field.add(name=name, number=int(take()))
            take()
            made.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            if kind in _SCALARS:
                made.type = _SCALARS[kind]
            else:
                made.type_name = f".{file.package}.{kind}"
            if group is not None:
                made.oneof_index = group

    while tokens:
        match take():
            case "package":
                file.package = take()
                take()
            case "enum":
                enum()
            case "message":
                fields(file.message_type.add(name=take()), None)
            case _:  # syntax = "proto3";
                while take() != ";":
                    pass
    enums = {f".{file.package}.{one.name}" for one in file.enum_type}
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type = _FIELD.TYPE_ENUM if field.type_name in enums else _FIELD.TYPE_MESSAGE
    return file


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    described = pool.AddSerializedFile(
        _parse(files(__package__).joinpath("etcd.proto").read_text(encoding="utf-8")).SerializeToString()
    )
    return {
        name: message_factory.GetMessageClass(one)
        for name, one in pool.FindFileByName(described.name).message_types_by_name.items()
    }


_CLASSES: Final = _classes()
Message = Any  # of one of these classes

AuthenticateRequest: Final = _CLASSES["AuthenticateRequest"]
AuthenticateResponse: Final = _CLASSES["AuthenticateResponse"]
CompactionRequest: Final = _CLASSES["CompactionRequest"]
CompactionResponse: Final = _CLASSES["CompactionResponse"]
Compare: Final = _CLASSES["Compare"]
DeleteRangeRequest: Final = _CLASSES["DeleteRangeRequest"]
DeleteRangeResponse: Final = _CLASSES["DeleteRangeResponse"]
KeyValue: Final = _CLASSES["KeyValue"]
LeaseGrantRequest: Final = _CLASSES["LeaseGrantRequest"]
LeaseGrantResponse: Final = _CLASSES["LeaseGrantResponse"]
PutRequest: Final = _CLASSES["PutRequest"]
RangeRequest: Final = _CLASSES["RangeRequest"]
RangeResponse: Final = _CLASSES["RangeResponse"]
RequestOp: Final = _CLASSES["RequestOp"]
TxnRequest: Final = _CLASSES["TxnRequest"]
TxnResponse: Final = _CLASSES["TxnResponse"]
WatchCreateRequest: Final = _CLASSES["WatchCreateRequest"]
WatchRequest: Final = _CLASSES["WatchRequest"]
WatchResponse: Final = _CLASSES["WatchResponse"]

MOD: Final = 2  # Compare.target
DELETE: Final = 1  # Event.type
