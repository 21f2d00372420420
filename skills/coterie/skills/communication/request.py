"""What communication is asked, and the channels of its operator."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from coterie.skills.shipped import Input, Settings

TEXT_CHARS_MAX = 256 * 1024
RECEIVERS_MAX = 100


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


Line = Annotated[str, Field(max_length=500), AfterValidator(_one_line)]


class Message(Input):
    """One message."""

    channel: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        description="a name of the operator's"
    )
    text: Annotated[str, Field(max_length=TEXT_CHARS_MAX)] = ""
    subject: Line = ""
    to: Annotated[tuple[Line, ...], Field(max_length=RECEIVERS_MAX)] = Field(
        (), description="mail addresses, or the id of one Feishu chat or person"
    )
    html: Annotated[str, Field(max_length=TEXT_CHARS_MAX)] = Field("", description="mail: the same as HTML")
    data: Any = Field(None, description="webhook: the JSON to be sent")
    on_unknown: Literal["ask", "retry", "fail"] | None = Field(
        None, description="after a crash that leaves it unknown whether it was sent"
    )


class Smtp(Settings):
    """A mail server."""

    kind: Literal["smtp"]
    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65_535)] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: str = Field("", repr=False)
    sender: Line
    allow_to: Annotated[tuple[str, ...], Field(min_length=1)]
    ca_file: Path | None = None
    timeout_s: Annotated[float, Field(gt=0, le=100)] = 30.0


class Webhook(Settings):
    """An address that takes POSTs of JSON."""

    kind: Literal["webhook"]
    url: Annotated[str, Field(pattern="^https?://")]
    secret: str = Field("", repr=False)
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    ca_file: Path | None = None
    timeout_s: Annotated[float, Field(gt=0, le=100)] = 30.0


class Feishu(Settings):
    """An application of Feishu or Lark."""

    kind: Literal["feishu"]
    app_id: Annotated[str, Field(min_length=1)]
    app_secret: Annotated[str, Field(min_length=1, repr=False)]
    domain: Annotated[str, Field(pattern="^https?://")] = "https://open.feishu.cn"
    receive_id_type: Literal["chat_id", "open_id", "user_id", "union_id", "email"] = "chat_id"
    allow_to: Annotated[tuple[str, ...], Field(min_length=1)]
    timeout_s: Annotated[float, Field(gt=0, le=100)] = 30.0


Channel = Annotated[Smtp | Webhook | Feishu, Field(discriminator="kind")]


class ChannelSettings(Settings):
    """`skills.settings.communication`."""

    channels: Annotated[dict[str, Channel], Field(min_length=1)]


def strangers(to: tuple[str, ...], allowed: tuple[str, ...]) -> list[str]:
    """Those who may not be told."""
    return [one for one in to if not any(fnmatch.fnmatchcase(one.lower(), glob.lower()) for glob in allowed)]
