"""What web-fetch is asked, and what its operator says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from coterie.skills.outbound import URL_CHARS_MAX, Way, check_hosts, networks
from coterie.skills.shipped import Input, Settings

MIB = 1024**2


def _check_networks(texts: tuple[str, ...]) -> tuple[str, ...]:
    networks(texts)
    return texts


class FetchRequest(Input):
    """One address."""

    url: Annotated[str, Field(min_length=1, max_length=URL_CHARS_MAX)] = Field(description="https://…")
    format: Literal["text", "source", "raw"] = Field(
        "text", description="text: what a reader sees; source: as it was sent; raw: base64"
    )
    offset: Annotated[int, Field(ge=0)] = Field(0, description="first character of the text")
    limit: Annotated[int, Field(ge=1, le=MIB)] = Field(20_000, description="characters of the text")
    accept_language: Annotated[str, Field(max_length=100)] = Field("", description="such as de, en;q=0.5")


class WaySettings(Settings):
    """Where a skill may go."""

    hosts: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(check_hosts)]
    inside_networks: Annotated[tuple[str, ...], AfterValidator(_check_networks)] = ()
    timeout_s: Annotated[float, Field(gt=0, le=80)] = 30.0
    bytes_max: Annotated[int, Field(ge=1, le=64 * MIB)] = 4 * MIB
    ca_file: Path | None = None

    def way(self, endpoints: tuple[str, ...] | None) -> Way:
        """With what an agent's permissions leave of it."""
        return Way(
            hosts=self.hosts,
            inside=networks(self.inside_networks),
            endpoints=endpoints,
            timeout_s=self.timeout_s,
            bytes_max=self.bytes_max,
            ca_file=str(self.ca_file or ""),
        )
