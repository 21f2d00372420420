"""Load generators and engine members as processes of their own, spoken to by lines of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from bench.figures import WorkNotDone
from bench.options import ROOT

LINE_BYTES_MAX = 256 << 20
ANSWER_S = 300.0


class Helper:
    """`python -m MODULE`: one JSON line in, one JSON line out. Ends with its `async with` block."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"GRPC_VERBOSITY": "ERROR"},
            limit=LINE_BYTES_MAX,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, message: dict[str, Any]) -> None:
        """Send one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def hear(self, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """The next line. Raises WorkNotDone when the process ended or says nothing in time."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise WorkNotDone(f"{self._module} said nothing for {timeout_s:g} s") from None
        if not line:
            code = await self._process.wait()
            raise WorkNotDone(f"{self._module} ended with exit code {code}; its error is above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkNotDone(f"{self._module}: {answer['error']}")
        return answer

    async def ask(self, message: dict[str, Any], timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """Send a line, return the answer."""
        self.tell(message)
        return await self.hear(timeout_s)


async def run_python(module: str, plans: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One process for each plan, all at the same time; their answers in order."""

    async def one(plan: dict[str, Any]) -> dict[str, Any]:
        async with Helper(module) as helper:
            return await helper.ask(plan)

    return await asyncio.gather(*(one(plan) for plan in plans))
