"""Run the server until its standard input ends; prints {"port": …} when it listens."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from coterie.node.demo.llmserver.script import Script
from coterie.node.demo.llmserver.server import LlmServer


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m coterie.node.demo.llmserver", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--script", type=Path, help="a JSON file with a list of rules (see script.py)")
    parser.add_argument("--ledger", default="", help="append every bill to this file, as JSON lines")
    parser.add_argument("--key", default="", help="the API key that is asked for; none: any")
    parser.add_argument("--chunk-chars", type=int, default=8, help="of a piece of a stream")
    parser.add_argument("--chunk-ms", type=int, default=0, help="before each piece")
    parser.add_argument("--first-ms", type=int, default=0, help="before the first piece")
    return parser.parse_args()


async def _run(options: argparse.Namespace) -> None:
    rules = json.loads(options.script.read_text(encoding="utf-8")) if options.script else []
    script = Script(rules, options.chunk_ms, options.first_ms)
    server = LlmServer(script, options.key, options.chunk_chars, options.ledger)
    listener = await server.start(options.host, options.port)
    print(json.dumps({"port": listener.sockets[0].getsockname()[1]}), flush=True)
    await asyncio.to_thread(sys.stdin.read)  # whoever started it has gone


if __name__ == "__main__":
    asyncio.run(_run(_options()))
