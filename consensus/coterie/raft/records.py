"""Records as messages: the converters are built once, by reflection over the frozen records of coterie.core,
whose field names are those of log.proto; a test proves that the two agree."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import IntEnum
from typing import Any, get_args, get_origin, get_type_hints

from coterie.core import nouns as n
from coterie.v1 import log_pb2 as pb

Way = Callable[[Any, Any], None]  # puts a value into a message


class Codec:
    """Converts one kind of record to its message and back."""

    def __init__(self, record: type, message: type) -> None:
        hints = get_type_hints(record)
        self.record, self.message = record, message
        self.slots = hasattr(record, "__slots__")  # else it need not hold what equals its defaults
        self.plain: list[str] = []
        self.enums: list[tuple[str, type[IntEnum]]] = []
        self.nested: list[tuple[str, Codec, Any]] = []
        self.required: set[str] = set()  # nested, and never absent: read from an empty message then
        self.repeated: list[tuple[str, Codec | None]] = []
        for field in fields(record):
            self._add(field.name, hints[field.name])
        self._ways: dict[str, Way] = {name: _way(name, codec, absent) for name, codec, absent in self.nested}
        self._ways |= {name: _list_way(name, item) for name, item in self.repeated}
        told = [*self.plain, *(name for name, _ in self.enums)]
        self._usual = [(field.name, field.default) for field in fields(record) if _is_usual(field, told)]

    def _add(self, name: str, hint: Any) -> None:
        hint = getattr(hint, "__supertype__", hint)  # NewType
        optional = get_origin(hint) in (typing.Union, types.UnionType)
        if optional:
            hint = next(arg for arg in get_args(hint) if arg is not type(None))
        if get_origin(hint) is tuple:
            item = get_args(hint)[0]
            self.repeated.append((name, codec_for(typing.cast(Any, item)) if is_dataclass(item) else None))
        elif is_dataclass(hint):
            codec = codec_for(typing.cast(Any, hint))
            self.nested.append((name, codec, _absent(codec.record)))
            if not optional and codec.record not in _ABSENT:
                self.required.add(name)
        elif isinstance(hint, type) and issubclass(hint, IntEnum):
            self.enums.append((name, hint))
        else:
            self.plain.append(name)

    def fill(self, record: Any, message: Any) -> None:
        """Copy a record into a message. Values equal to protobuf's defaults cost nothing on disk."""
        if not self.slots:
            self._fill_held(record.__dict__, message)
            return
        for name in self.plain:
            value = getattr(record, name)
            if value:
                setattr(message, name, value)
        for name, _ in self.enums:
            setattr(message, name, int(getattr(record, name)))
        for name, way in self._ways.items():
            value = getattr(record, name)
            if value:
                way(value, message)

    def _fill_held(self, held: Mapping[str, Any], message: Any) -> None:
        """Of a record that holds little beside what differs from its defaults: only that is looked at."""
        for name, value in self._usual:
            if name not in held:
                setattr(message, name, value)
        ways = self._ways
        for name, value in held.items():
            if value:
                way = ways.get(name)
                if way is None:
                    setattr(message, name, value)
                else:
                    way(value, message)

    def read(self, message: Any) -> Any:
        """A record from a message."""
        values: dict[str, Any] = {name: getattr(message, name) for name in self.plain}
        for name, enum in self.enums:
            values[name] = enum(getattr(message, name))
        for name, codec, absent in self.nested:
            present = name in self.required or message.HasField(name)
            values[name] = codec.read(getattr(message, name)) if present else absent
        for name, item in self.repeated:
            found = getattr(message, name)
            values[name] = tuple(item.read(m) for m in found) if item else tuple(found)
        return self.record(**values) if self.slots else n.make(self.record, **values)


def _is_usual(field: Field[Any], told: Iterable[str]) -> bool:
    """Its default is another one than protobuf's."""
    return field.name in told and field.default is not MISSING and bool(field.default)


def _way(name: str, codec: Codec, absent: Any) -> Way:
    """Of a record within a record."""

    def put(value: Any, message: Any) -> None:
        if value is not absent and value != absent:
            sub = getattr(message, name)
            sub.SetInParent()
            codec.fill(value, sub)

    return put


def _list_way(name: str, item: Codec | None) -> Way:
    return lambda values, message: fill_repeated(getattr(message, name), values, item)


def fill_repeated(target: Any, values: Iterable[Any], item: Codec | None) -> None:
    if item is None:
        target.extend(values)
        return
    for value in values:
        item.fill(value, target.add())


_ABSENT: dict[type, Any] = {n.Data: n.NO_DATA, n.Constraints: n.NO_CONSTRAINTS}


def _absent(record: type) -> Any:
    return _ABSENT.get(record)


_CODECS: dict[type, Codec] = {}


def codec_for(record: type) -> Codec:
    """The converter of a record type, made at first use."""
    codec = _CODECS.get(record)
    if codec is None:
        codec = _CODECS[record] = Codec(record, getattr(pb, record.__name__))
    return codec


def register(record: type, codec: Codec) -> None:
    """The converter of a record that needs one of its own."""
    _CODECS[record] = codec
