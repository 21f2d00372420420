"""One part of a JSON object. `python -m coterie.node.json_part` does it for whoever has something else to do:
a line with the name as JSON comes in, then the object; the part goes out."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from pathlib import Path

LIMIT_S = 300


def json_part(content: bytes, name: str | None) -> bytes:
    """What the object has under that name, or null; without a name the list of all names. Of a value that is
    no object: null. Raises ValueError."""
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    found = None
    if isinstance(value, dict):
        found = list(value) if name is None else value.get(name)
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()


def main() -> None:
    """Ends with 1 for what is no JSON."""
    signal.alarm(LIMIT_S)  # the node that would end this process may be gone
    with suppress(OSError):  # where memory runs out, this process goes before the node
        Path("/proc/self/oom_score_adj").write_text("1000")
    name, content = sys.stdin.buffer.readline(), sys.stdin.buffer.read()
    try:
        part = json_part(content, json.loads(name))
    except ValueError as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(part)


if __name__ == "__main__":
    main()
