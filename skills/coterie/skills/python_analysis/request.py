"""What python-analysis is asked, and what its operator says."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from coterie.skills.file_management.request import AllowedPath
from coterie.skills.shipped import Input, Settings

MIB = 1024**2
NAMES_MAX = 100

Glob = Annotated[str, Field(max_length=200)]


class CodeRequest(Input):
    """Some Python code."""

    source: Annotated[str, Field(max_length=MIB)] | None = Field(None, description="the code itself")
    name: Annotated[str, Field(min_length=1, max_length=500)] = Field("source.py", description="of source")
    path: Annotated[str, Field(min_length=1, max_length=4_096)] | None = Field(
        None, description="a file or folder"
    )
    exclude: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(max_length=NAMES_MAX)] = (
        Field((), description="names of files and folders to leave out")
    )
    limit: Annotated[int, Field(ge=1, le=500)] = Field(50, description="files told of in detail")
    worst: Annotated[int, Field(ge=0, le=200)] = Field(10, description="the most complex functions")

    @model_validator(mode="after")
    def _has_one(self) -> CodeRequest:
        if (self.source is None) == (self.path is None):
            raise ValueError("give the code in one way: source or path")
        return self


class CodeSettings(Settings):
    """`skills.settings.python-analysis`."""

    paths: tuple[Annotated[str, Field(pattern="^/")], ...] = ()
    file_bytes_max: Annotated[int, Field(ge=1, le=16 * MIB)] = MIB
    files_max: Annotated[int, Field(ge=1, le=100_000)] = 5_000

    @property
    def allowed(self) -> tuple[AllowedPath, ...]:
        """Nothing is ever changed."""
        return tuple(AllowedPath(path=one) for one in self.paths)
