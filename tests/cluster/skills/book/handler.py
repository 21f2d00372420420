"""An entry into a book outside: one file per key; a line in `calls` for every call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def enter(book: Path, entry: Any, effect: Any) -> str:
    name = effect.key.replace("/", "~")
    fd = os.open(book / "calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{effect.key} {effect.attempt}\n".encode())
    finally:
        os.close(fd)
    try:
        os.close(os.open(book / name, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return f"{entry} was there"
    return f"{entry} entered"


async def run(ctx: Any, input: dict[str, Any]) -> Any:
    return await ctx.effect("enter", enter, Path(input["book"]), input["entry"])
