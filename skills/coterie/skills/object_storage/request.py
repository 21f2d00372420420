"""What object-storage is asked, and what its operator says."""

from __future__ import annotations

import fnmatch
from typing import Annotated, Literal

from pydantic import Field, model_validator

from coterie.skills.shipped import Input, Settings

MIB = 1024**2
_CHANGES = frozenset({"put", "copy", "delete"})
_NEEDS: dict[str, tuple[str, ...]] = {
    "list": (),
    "put": ("key", "content"),
    "copy": ("key", "to_bucket", "to_key"),
}
_NOTHING = {"content": None}  # "" is a content: that of an empty object


class ObjectRequest(Input):
    """One operation on one object or bucket."""

    operation: Literal["list", "info", "get", "put", "copy", "delete", "link"]
    bucket: Annotated[str, Field(min_length=3, max_length=63)]
    key: Annotated[str, Field(max_length=1_024)] = ""
    store: Annotated[str, Field(max_length=100)] = Field(
        "", description="a name of the operator's; none: the first"
    )
    prefix: Annotated[str, Field(max_length=1_024)] = Field("", description="list: only keys that begin so")
    after: Annotated[str, Field(max_length=1_024)] = Field("", description="list: go on after this key")
    limit: Annotated[int, Field(ge=1)] | None = Field(None, description="list: objects; get: bytes")
    offset: Annotated[int, Field(ge=0)] = Field(0, description="get: the first byte")
    content: Annotated[str, Field(max_length=12 * MIB)] | None = None
    encoding: Literal["utf-8", "base64"] = Field("utf-8", description="of content, in and out")
    media_type: Annotated[str, Field(max_length=200)] = Field("", description="put: such as text/csv")
    overwrite: bool = Field(False, description="put: replace an object that is there")
    to_bucket: Annotated[str, Field(max_length=63)] = ""
    to_key: Annotated[str, Field(max_length=1_024)] = ""
    expires_s: Annotated[int, Field(ge=1, le=7 * 24 * 3_600)] = Field(
        3_600, description="link: how long it works"
    )

    @model_validator(mode="after")
    def _has_all(self) -> ObjectRequest:
        needs = _NEEDS.get(self.operation, ("key",))
        missing = [name for name in needs if getattr(self, name) == _NOTHING.get(name, "")]
        if missing:
            raise ValueError(f"{self.operation} needs {' and '.join(missing)}")
        return self

    @property
    def changes(self) -> bool:
        """Whether it does something to the store."""
        return self.operation in _CHANGES


class Store(Settings):
    """An S3-compatible service."""

    endpoint: Annotated[str, Field(pattern="^(https?://|$)")] = ""  # none: AWS
    region: str = "us-east-1"
    access_key: Annotated[str, Field(min_length=1, repr=False)]
    secret_key: Annotated[str, Field(min_length=1, repr=False)]
    read: tuple[str, ...] = ()  # buckets, or globs over bucket/key
    write: tuple[str, ...] = ()  # may be read, too
    path_style: bool = True
    timeout_s: Annotated[float, Field(gt=0, le=100)] = 30.0
    bytes_max: Annotated[int, Field(ge=1, le=8 * MIB)] = 4 * MIB

    def allows(self, bucket: str, key: str, *, write: bool) -> bool:
        """Whether an object, or for a list a prefix, may be touched."""
        allowed = self.write if write else (*self.read, *self.write)
        return any(
            bucket == one if "/" not in one else fnmatch.fnmatchcase(f"{bucket}/{key}", one)
            for one in allowed
        )


class StoreSettings(Settings):
    """`skills.settings.object-storage`."""

    stores: Annotated[dict[str, Store], Field(min_length=1)]
