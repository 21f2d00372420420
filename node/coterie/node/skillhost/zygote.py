"""The node's end of the zygote: starting it, asking it for children, hearing how they died."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import coterie.skills
from coterie.node.skillhost.nouns import SkillHostError, SkillHostOptions, SkillInfo, SkillProblem
from coterie.node.skillhost.output import OutputPipe
from coterie.skills.frames import Frame, FrameDecoder, FrameSocket, encode_frame
from coterie.skills.sandbox import Box, Layer

ENV_ALLOW = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "PYTHONPATH"})
PRELOADED = [
    "asyncio", "base64", "collections.abc", "csv", "datetime", "decimal", "difflib", "email.message",
    "encodings.idna", "fractions", "functools", "hashlib", "html.parser", "http.client", "io", "itertools",
    "json", "math", "pathlib", "pydantic", "random", "re", "shutil", "ssl", "statistics", "string",
    "tempfile", "textwrap", "typing", "unicodedata", "urllib.parse", "urllib.request", "uuid",
    "xml.etree.ElementTree", "zlib", "zoneinfo",
]  # fmt: skip
"""Imported before any confined process is forked, so that most skills find what they need in memory."""
REPORT_HEADER_BYTES_MAX = 16 * 1024 * 1024
IMPORT_OUTPUT_BYTES_MAX = 256 * 1024
STOP_S = 3.0
POLL_S = 0.005

OnExited = Callable[[int, int, str], None]
"""Called with child number, wait status, and who killed it: lease, kill or nobody (empty)."""


class Zygote:
    """One zygote process. Made by `launch`, used after `attach` and once `ready` is done."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, output_fd: int) -> None:
        self._process = process
        self._control = control
        self._output_fd = output_fd
        self._frames: FrameSocket | None = None
        self._output: OutputPipe | None = None
        self.is_ready = False
        self.skills: dict[str, SkillInfo] = {}
        self.problems: tuple[SkillProblem, ...] = ()
        self.layers: tuple[Layer, ...] = ()
        """What a sandbox consists of on this machine."""

    @classmethod
    def launch(cls, options: SkillHostOptions, confining: bool = False) -> Zygote:
        """Start the process; it loads its skills meanwhile. Quick, and needs no loop. One that is `confining`
        has no skills and knows no secret: what it forks runs code that is not trusted.

        Only from the main thread: the kernel kills the zygote when the thread that started it ends.
        """
        if threading.current_thread() is not threading.main_thread():
            raise SkillHostError("skill processes must be started from the main thread")
        hello = {
            "op": "hello",
            "skill_dirs": [] if confining else [str(Path(place).absolute()) for place in options.skill_dirs],
            "limits": asdict(options.limits),
            "preload": PRELOADED if confining else [],
            "probe": True,
        }
        try:
            return cls._launch(encode_frame(hello), _environment(options, confining))
        except OSError as error:
            raise SkillHostError(f"cannot start the process for skills: {error}") from error

    @classmethod
    def _launch(cls, hello: bytes, env: dict[str, str]) -> Zygote:
        """Raises OSError, as when too many files are open; then it leaves none open itself."""
        with contextlib.ExitStack() as kept, contextlib.ExitStack() as handed_over:
            ours, theirs = socket.socketpair()
            kept.callback(ours.close)
            handed_over.callback(theirs.close)
            output_out, output_in = os.pipe()
            kept.callback(os.close, output_out)
            handed_over.callback(os.close, output_in)
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "coterie.skills.zygote", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=output_in,
                stderr=output_in,
                pass_fds=[theirs.fileno()],
                env=env,
                start_new_session=True,
            )
            ours.sendall(hello)  # the other end is still open here too, whatever became of the process
            kept.pop_all()
        return cls(process, ours, output_out)

    @property
    def pid(self) -> int:
        """The process id of the zygote."""
        return self._process.pid

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        on_spawned: Callable[[int, int, int], None],
        on_exited: OnExited,
        on_line: Callable[[str], None],
    ) -> None:
        """Begin to listen. `on_spawned`: child number, pid, microseconds; `on_exited` also when a fork failed
        (status -1, the reason in words)."""
        self._on_spawned = on_spawned
        self._on_exited = on_exited
        self.ready: asyncio.Future[None] = loop.create_future()
        self.lost = asyncio.Event()
        decoder = FrameDecoder(0, REPORT_HEADER_BYTES_MAX)
        self._output = OutputPipe(loop, self._output_fd, IMPORT_OUTPUT_BYTES_MAX, on_line)
        self._frames = FrameSocket(loop, self._control, decoder, self._on_frame, self._on_closed)

    def spawn_child(self, number: int, fds: tuple[int, ...], box: Box | None = None) -> None:
        """Ask for a child on these descriptors (its socket, its output, for a box with a network the gate),
        which are closed here. It may be written to at once."""
        described = {} if box is None else {"box": asdict(box)}
        self._send({"op": "spawn", "child": number, **described}, fds)

    def kill_child(self, number: int) -> None:
        """Have a child killed with all its descendants; `on_exited` follows."""
        self._send({"op": "kill", "child": number})

    def set_lease(self, until: float) -> None:
        """Running children are killed at `until` (monotonic clock, seconds)."""
        valid_for_ms = max(0.0, until - time.monotonic()) * 1_000
        self._send({"op": "lease", "until": until, "valid_for_ms": valid_for_ms})

    def hang_up(self) -> None:
        """Close the connection: the zygote kills all and ends. Synchronous; `stop` waits for it."""
        self.is_ready = False
        if self._frames is not None:
            self._frames.close()
        self._control.close()

    async def stop(self) -> None:
        """End the process and wait for it. May be called for one that is dead already."""
        self.hang_up()
        give_up_at = time.monotonic() + STOP_S
        while self._process.poll() is None:
            if time.monotonic() > give_up_at:
                self._process.kill()
            await asyncio.sleep(POLL_S)
        if self._output is not None:
            self._output.drain()
            self._output.close()
        else:
            os.close(self._output_fd)

    @property
    def last_output(self) -> str:
        """What the process last printed, for the log."""
        if self._output is None:
            return ""
        self._output.drain()
        return self._output.tail.strip()[-1_000:]

    def _send(self, header: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        if self._frames is None:
            raise SkillHostError("the skill host was not started; await start() first")
        self._frames.send(header, fds=fds)

    def _on_frame(self, frame: Frame) -> None:
        header = frame.header
        match header["op"]:
            case "ready":
                self._on_ready(header)
            case "spawned":
                self._on_spawned(header["child"], header["pid"], header["fork_us"])
            case "unspawned":
                self._on_exited(header["child"], -1, header["message"])
            case "exited":
                self._on_exited(header["child"], header["status"], header["reason"])

    def _on_ready(self, header: dict[str, Any]) -> None:
        self.skills = {skill["name"]: SkillInfo(**skill) for skill in header["skills"]}
        self.problems = tuple(SkillProblem(**problem) for problem in header["problems"])
        self.layers = tuple(Layer(**layer) for layer in header["layers"])
        self.is_ready = True
        if not self.ready.done():
            self.ready.set_result(None)

    def _on_closed(self, error: Exception | None) -> None:
        self.is_ready = False
        if not self.ready.done():
            self.ready.set_result(None)
        self.lost.set()


def kill_group(pid: int) -> None:
    """Kill the processes of a child's group directly; for when no zygote is left to do it."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _environment(options: SkillHostOptions, confining: bool) -> dict[str, str]:
    """Only what is allowed; and where this very package is, installed or not."""
    package = Path(next(iter(coterie.skills.__path__)))
    paths = [str(package.parents[1])]
    if confining:
        # Few arenas: each reserves address space, which is what a confined process has little of.
        return {"PYTHONPATH": paths[0], "LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "2"}
    allowed = ENV_ALLOW | set(options.env_allow)
    env = {name: value for name, value in os.environ.items() if name in allowed}
    env["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [env.get("PYTHONPATH")])])
    return env
