"""What web-search is asked, and what its operator says."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from coterie.skills.shipped import Input, Settings

MIB = 1024**2
ID_CHARS_MAX = 500
RESULTS_MAX = 50


class Document(Input):
    """What a local index holds."""

    id: Annotated[str, Field(min_length=1, max_length=ID_CHARS_MAX)]
    text: Annotated[str, Field(max_length=MIB)]
    title: Annotated[str, Field(max_length=1_000)] = ""
    url: Annotated[str, Field(max_length=4_096)] = ""


class SearchRequest(Input):
    """A search, or a change of a local index."""

    query: Annotated[str, Field(max_length=400)] = Field("", description="a few words")
    operation: Literal["search", "add", "remove"] = "search"
    engine: Annotated[str, Field(max_length=100)] = Field(
        "", description="a name of the operator's; none: the first"
    )
    limit: Annotated[int, Field(ge=1, le=RESULTS_MAX)] = 10
    language: Annotated[str, Field(max_length=20)] = Field("", description="such as en or zh")
    period: Literal["", "day", "week", "month", "year"] = Field("", description="only what is not older")
    documents: Annotated[tuple[Document, ...], Field(max_length=1_000)] = ()
    ids: Annotated[tuple[str, ...], Field(max_length=10_000)] = ()

    @model_validator(mode="after")
    def _has_all(self) -> SearchRequest:
        needed = {"search": "query", "add": "documents", "remove": "ids"}[self.operation]
        if not getattr(self, needed):
            raise ValueError(f"{self.operation} needs {needed}")
        return self


class Engine(Settings):
    """Where is searched."""

    kind: Literal["searxng", "brave", "local"]
    url: Annotated[str, Field(pattern="^https?://")] = ""
    api_key: str = ""
    path: Annotated[str, Field(pattern="^(/|$)")] = ""  # of a local index: a file
    timeout_s: Annotated[float, Field(gt=0, le=80)] = 20.0

    @model_validator(mode="after")
    def _has_all(self) -> Engine:
        if self.kind == "local" and not self.path:
            raise ValueError("a local engine needs path, the file of its index")
        if self.kind == "searxng" and not self.url:
            raise ValueError("a searxng engine needs url")
        if self.kind == "brave" and not self.api_key:
            raise ValueError("a brave engine needs apiKey: {env: NAME} or {file: /path}")
        return self


class SearchSettings(Settings):
    """`skills.settings.web-search`."""

    engines: Annotated[dict[str, Engine], Field(min_length=1)]
