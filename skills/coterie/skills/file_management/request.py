"""What file-management is asked, and what its operator says."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from coterie.skills.shipped import Input, Settings

KIB, MIB, GIB = 1024, 1024**2, 1024**3
PATH_CHARS_MAX = 4_096
CONTENT_CHARS_MAX = 12 * MIB
ENTRIES_MAX = 10_000

Operation = Literal[
    "list", "info", "read", "search", "write", "make_folder", "copy", "move", "delete"
]  # fmt: skip
_NEEDS: dict[str, tuple[str, ...]] = {
    "info": ("path",),
    "read": ("path",),
    "search": ("query",),
    "write": ("path", "content"),
    "make_folder": ("path",),
    "copy": ("path", "to"),
    "move": ("path", "to"),
    "delete": ("path",),
}
PathText = Annotated[str, Field(max_length=PATH_CHARS_MAX)]
_NOTHING = {"content": None}  # "" is a content: that of an empty file


class FileRequest(Input):
    """One operation on one path."""

    operation: Operation
    path: PathText = Field("", description="absolute, or relative to the first allowed folder")
    to: PathText = Field("", description="copy, move: the new path of the file or folder itself")
    content: Annotated[str, Field(max_length=CONTENT_CHARS_MAX)] | None = Field(
        None, description="write: the whole new content"
    )
    encoding: Literal["utf-8", "base64"] = Field("utf-8", description="of content, in and out")
    overwrite: bool = Field(False, description="write, copy, move: replace a file that is there")
    recursive: bool = Field(False, description="list: with all below; delete: a folder with its content")
    pattern: Annotated[str, Field(max_length=200)] = Field(
        "", description="list, search: only names like this, such as *.csv"
    )
    query: Annotated[str, Field(max_length=1_000)] = Field(
        "", description="search: the text to find in files"
    )
    regex: bool = Field(False, description="search: query is a regular expression of Python")
    offset: Annotated[int, Field(ge=0)] = Field(0, description="read: the first byte")
    limit: Annotated[int, Field(ge=1, le=64 * MIB)] | None = Field(
        None, description="list: entries; search: matches; read: bytes"
    )

    @model_validator(mode="after")
    def _has_all(self) -> FileRequest:
        needs = _NEEDS.get(self.operation, ())
        missing = [name for name in needs if getattr(self, name) == _NOTHING.get(name, "")]
        if missing:
            raise ValueError(f"{self.operation} needs {' and '.join(missing)}")
        return self


class AllowedPath(Settings):
    """A folder with all below it."""

    path: Annotated[str, Field(pattern="^/")]
    write: bool = False


class FileSettings(Settings):
    """`skills.settings.file-management`. Sizes are bytes."""

    paths: Annotated[tuple[AllowedPath | Annotated[str, Field(pattern="^/")], ...], Field(min_length=1)]
    read_bytes_max: Annotated[int, Field(ge=1, le=8 * MIB)] = 256 * KIB
    write_bytes_max: Annotated[int, Field(ge=1, le=8 * MIB)] = 8 * MIB
    copy_bytes_max: Annotated[int, Field(ge=1)] = GIB
    search_file_bytes_max: Annotated[int, Field(ge=1, le=256 * MIB)] = 4 * MIB

    @property
    def allowed(self) -> tuple[AllowedPath, ...]:
        """Those given as text may be read only."""
        return tuple(AllowedPath(path=one) if isinstance(one, str) else one for one in self.paths)
