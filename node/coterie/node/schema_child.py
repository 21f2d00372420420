"""The process that checks what is too large to be checked on a node's event loop. It answers one request
after the other, and ends with its input.

A request is a limit in seconds, two lengths, the schema's text and the content; the answer is a length and
the faults as JSON."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import BinaryIO

from coterie.node.schemas import faults_by_text

REQUEST, ANSWER = Struct(">QQQ"), Struct(">Q")
RECURSION_MAX = 5_000  # deeper values than on a node's loop; more would overflow the stack
SHOWN_CHARS_MAX = 2_000  # of a fault's place and of its text


def serve(asked: BinaryIO, answers: BinaryIO) -> None:
    """Until the input ends."""
    while len(header := asked.read(REQUEST.size)) == REQUEST.size:
        limit_s, schema_size, content_size = REQUEST.unpack(header)
        schema, content = asked.read(schema_size).decode(), asked.read(content_size)
        signal.alarm(limit_s)  # the node that would end this process may be gone
        found = [[part[:SHOWN_CHARS_MAX] for part in fault] for fault in faults_by_text(schema, content)]
        signal.alarm(0)
        text = json.dumps(found).encode()
        answers.write(ANSWER.pack(len(text)) + text)
        answers.flush()


def main() -> None:
    sys.setrecursionlimit(RECURSION_MAX)
    with suppress(OSError):  # where memory runs out, this process goes before the node
        Path("/proc/self/oom_score_adj").write_text("1000")
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
