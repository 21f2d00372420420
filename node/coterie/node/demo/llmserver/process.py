"""The server as a process of its own, for tests and demos."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from types import TracebackType
from typing import Any

ASK_S = 20.0


class LlmServerProcess:
    """A running server. Its answers are set by `script`; `bills` is what arrived, in order. `host`: an
    address of this machine that it listens on."""

    def __init__(self, *arguments: str, host: str = "127.0.0.1") -> None:
        self.host = host
        command = [sys.executable, "-m", "coterie.node.demo.llmserver", "--host", host, *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the model server did not start")
        self.port: int = json.loads(line)["port"]

    @property
    def url(self) -> str:
        """Where clients find the API."""
        return f"http://{self.host}:{self.port}/v1"

    def script(self, *rules: dict[str, Any], chunk_ms: int = 0, first_ms: int = 0) -> None:
        """Replace the rules (see script.py)."""
        self._ask("/_script", {"rules": list(rules), "chunk_ms": chunk_ms, "first_ms": first_ms})

    @property
    def arrived(self) -> list[dict[str, Any]]:
        """Every request that arrived."""
        bills: list[dict[str, Any]] = self._ask("/_bills")["bills"]
        return bills

    @property
    def bills(self) -> list[dict[str, Any]]:
        """Those that were billed."""
        return [bill for bill in self.arrived if bill["billed"]]

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> LlmServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _ask(self, path: str, content: Any = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"http://{self.host}:{self.port}{path}", data)
        with urllib.request.urlopen(request, timeout=ASK_S) as answer:
            return json.load(answer)
