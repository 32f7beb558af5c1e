"""TF Serving's configuration files: protocol messages in text form.

`tensorflow-serving-api` has no classes for two of them, BatchingParameters and MonitoringConfig: they are made here of
their fields' numbers and types, so that protobuf's own reader reads all three.

Source: tensorflow/serving, `servables/tensorflow/session_bundle_config.proto`, `config/monitoring_config.proto`.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from google.protobuf.message import Message

from keras_llm.errors import UserError

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "tensorflow.serving"
_INT64, _STRING, _BOOL = (f".google.protobuf.{name}Value" for name in ("Int64", "String", "Bool"))
# message -> field -> number and type; a list is repeated, a name with a dot is a message
_MESSAGES = {
    "BatchingParameters": {
        "max_batch_size": (1, _INT64),
        "batch_timeout_micros": (2, _INT64),
        "max_enqueued_batches": (3, _INT64),
        "num_batch_threads": (4, _INT64),
        "thread_pool_name": (5, _STRING),
        "allowed_batch_sizes": (6, [_Field.TYPE_INT64]),
        "pad_variable_length_inputs": (7, _Field.TYPE_BOOL),
        "enable_large_batch_splitting": (8, _BOOL),
        "max_execution_batch_size": (9, _INT64),
    },
    "PrometheusConfig": {"enable": (1, _Field.TYPE_BOOL), "path": (2, _Field.TYPE_STRING)},
    "MonitoringConfig": {"prometheus_config": (1, f".{_PACKAGE}.PrometheusConfig")},
}


def _classes() -> dict[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(
        name="keras_llm/serving.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            entry = message.field.add(name=field, number=number, label=_Field.LABEL_OPTIONAL)
            if isinstance(kind, list):
                (kind,), entry.label = kind, _Field.LABEL_REPEATED
            if isinstance(kind, str):
                entry.type, entry.type_name = _Field.TYPE_MESSAGE, kind
            else:
                entry.type = kind
    pool = descriptor_pool.DescriptorPool()  # not the process's: another package may bring these messages
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


CLASSES = _classes()


def read(path: str | Path, message_class: type[Message], flag: str) -> Message:
    """Reads a message in text form.

    Args:
        path: of the file, UTF-8.
        message_class: what it holds.
        flag: that named it, for errors.

    Raises:
        UserError: the file cannot be read, or is no such message; an unknown field is told with the nearest known one.

    Example:

    >>> read("batching.config", CLASSES["BatchingParameters"], "--batching-parameters-file").max_batch_size.value
    32
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{flag} must name a readable file. Received: {path} ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{flag} must name a UTF-8 file. Received: {path}, byte {error.start} is not.") from None
    message = message_class()
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        name = message.DESCRIPTOR.full_name
        raise UserError(
            f"Error parsing text-format {name}. Received: {path}:{error}{_nearest(error, message)}"
        ) from None


def _nearest(error: text_format.ParseError, message: Message) -> str:
    unknown = re.search(r'Message type "([\w.]+)" (?:has no|does not have a) field named "(\w+)"', str(error))
    if not unknown:
        return ""
    nearest = difflib.get_close_matches(unknown[2], _field_names(message.DESCRIPTOR, unknown[1], set()), 1)
    return f" Did you mean {nearest[0]}?" if nearest else ""


def _field_names(descriptor, wanted: str, seen: set[str]) -> list[str]:
    """The fields of the message called `wanted`, which is `descriptor` or somewhere inside it."""
    if descriptor.full_name == wanted:
        return [field.name for field in descriptor.fields]
    seen.add(descriptor.full_name)
    inner = (field.message_type for field in descriptor.fields if field.message_type)
    names = (_field_names(message, wanted, seen) for message in inner if message.full_name not in seen)
    return next((found for found in names if found), [])
