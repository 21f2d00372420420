"""A cluster of real node processes on loopback, for `coterie dev`, the demo, the cluster tests and the bench.

    cluster = LocalCluster(nodes=3, capacity=16, options={"skills": {"dirs": ["skills"]}})
    cluster.start()
    try:
        await cluster.wait_ready(30.0)
        async with Cluster(cluster.endpoints, tls=cluster.client_tls) as client: ...
        cluster.kill_node("node-1"); cluster.start_node("node-1")
    finally:
        cluster.stop()

`start`, `kill_node`, `pause_node`, `resume_node`, `terminate_node` and `stop` are synchronous and return when
the operating system has done it; `wait_ready` is a coroutine. `with LocalCluster(...)` starts and stops.
Every node leads a process group of its own; `stop` kills whatever is left in these groups, and when this
program itself is killed, a reaper process does.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from coterie.node.config.dev import without_places
from coterie.node.config.settings import TlsPaths
from coterie.node.localcluster.config import make_tls, write_config
from coterie.node.localcluster.wait import wait_agreed

LOG_TAIL_LINES = 15
STOP_GRACE_S = 8.0
# Below the range from which Linux gives out ports for outgoing connections, so that the port of a node that
# was killed is still free when the node comes back.
PORT_FIRST, PORT_LAST = 20_000, 32_000


class ClusterFailed(Exception):
    """A node ended by itself, or the cluster was not ready in time; the message shows the logs' tails."""


class NodeProcess:
    """One node as an operating-system process. Dead, it stays a zombie (its id stays ours) until `sweep`."""

    def __init__(self, node_id: str, command: list[str], log_path: Path, env: Mapping[str, str]) -> None:
        self.node_id = node_id
        self.log_path = log_path
        self.started_at = time.monotonic()
        with log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
            )
        self.pid = self._popen.pid

    def alive(self) -> bool:
        """True while the process has not ended. Does not reap it."""
        return not self._ended(block=False)

    def signal(self, number: int) -> None:
        """Send a signal to the node process only (its skill processes get nothing)."""
        os.kill(self.pid, number)

    def wait_ended(self, timeout_s: float | None = None) -> bool:
        """Block until it has ended, or `timeout_s` is over. Returns whether it ended."""
        if timeout_s is None:
            return self._ended(block=True)
        deadline = time.monotonic() + timeout_s
        while not self._ended(block=False):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def sweep(self) -> int:
        """Kill everything left in the process group, then reap. Returns the exit code (negative: signal)."""
        # While the zombie is unreaped no other process can get its id, so this cannot hit a stranger.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        return self._popen.wait()

    def _ended(self, *, block: bool) -> bool:
        if self._popen.returncode is not None:
            return True
        flags = os.WEXITED | os.WNOWAIT | (0 if block else os.WNOHANG)
        return os.waitid(os.P_PID, self.pid, flags) is not None


class LocalCluster:
    """Configuration, certificates and node processes in one directory.

    nodes: how many, 1 to 9; they are called node-1, node-2 ...
    base_dir: for configuration, certificates, data and logs; None: a temporary directory that `stop` removes.
    tls: mutual TLS with certificates made on the fly; False: plain text (loopback only).
    capacity: skill slots of each node.
    options: further keys of the cluster file, merged over the defaults, e.g. {"skills": {"dirs": [...]}};
        {"cluster": {"nodes": {"node-1": {"zone": "a"}}}} is for one node.
    env: further environment variables of the node processes.
    ports: one for each node; none: free ones are chosen.
    hosts: one address of this machine for each node; none: loopback. They need not be reachable from here
        when a subclass starts the nodes elsewhere (see `node_command`).

    `files`, to be set before the start: further files of the cluster, laid upon the one that is written here.
    """

    def __init__(
        self,
        nodes: int = 3,
        base_dir: str | Path | None = None,
        tls: bool = True,
        capacity: int = 16,
        options: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        ports: Sequence[int] = (),
        hosts: Sequence[str] = (),
    ) -> None:
        if not 1 <= nodes <= 9:
            raise ValueError(f"nodes: {nodes} is not between 1 and 9; start three for a majority of two")
        self._own_dir = base_dir is None
        self.base_dir = Path(tempfile.mkdtemp(prefix="coterie-") if base_dir is None else base_dir).resolve()
        self.base_dir.mkdir(parents=True, exist_ok=True)
        self.node_ids = [f"node-{number}" for number in range(1, nodes + 1)]
        self.addresses = dict(zip(self.node_ids, _addresses(nodes, ports, hosts), strict=True))
        self._env = {**_environment(), **(env or {})}
        self.files: Sequence[Path] = ()
        self._processes: dict[str, NodeProcess] = {}
        self._expected: set[str] = set()
        self._reaper: subprocess.Popen[bytes] | None = None
        tls_dir = self.base_dir / "tls"
        self.client_tls: TlsPaths | None = make_tls(tls_dir, self.node_ids, hosts) if tls else None
        addresses = list(self.addresses.values())
        self.config_path = write_config(self.base_dir, addresses, tls, capacity, options or {})

    @property
    def endpoints(self) -> str:
        """Client endpoints of all nodes: "127.0.0.1:20001,127.0.0.1:20002,..."."""
        return ",".join(self.addresses[node_id] for node_id in self.node_ids)

    def start(self) -> None:
        """Start every node that is not running."""
        for node_id in self.node_ids:
            if not self.alive(node_id):
                self.start_node(node_id)

    def start_node(self, node_id: str) -> int:
        """Start one node (again), on its old data. Returns its process id."""
        self._check(node_id)
        if self.alive(node_id):
            raise ClusterFailed(f"{node_id} runs already (pid {self._processes[node_id].pid}): kill it first")
        self._forget(node_id)
        self._expected.discard(node_id)
        command, env = self.node_command(node_id), self.node_env(node_id)
        process = NodeProcess(node_id, command, self.log_path(node_id), env)
        self._processes[node_id] = process
        self._tell_reaper(f"+{process.pid}")
        return process.pid

    def node_command(self, node_id: str) -> list[str]:
        """The command line of a node."""
        files = [str(path.resolve()) for path in (self.config_path, *self.files)]
        configs = [word for file in files for word in ("--config", file)]
        return [sys.executable, "-m", "coterie.node.main", *configs, "--id", node_id]

    def node_env(self, node_id: str) -> Mapping[str, str]:
        """The environment of a node."""
        return self._env

    def kill_node(self, node_id: str) -> None:
        """kill -9 of the node process only: its skills must notice by themselves. Returns when dead."""
        process = self._running(node_id)
        self._expected.add(node_id)
        process.signal(signal.SIGKILL)
        # A stopped process dies from SIGKILL all the same.
        process.wait_ended()

    def terminate_node(self, node_id: str, grace_s: float = STOP_GRACE_S) -> int:
        """SIGTERM, then SIGKILL after `grace_s`. Returns the exit code (negative: a signal's number)."""
        process = self._running(node_id)
        process.signal(signal.SIGTERM)
        process.wait_ended(grace_s)
        return self._forget(node_id)

    def pause_node(self, node_id: str) -> None:
        """SIGSTOP of the node process only (its skill processes run on): a zombie in the making."""
        self._running(node_id).signal(signal.SIGSTOP)

    def resume_node(self, node_id: str) -> None:
        """SIGCONT of the node process."""
        self._running(node_id).signal(signal.SIGCONT)

    def alive(self, node_id: str) -> bool:
        """True while the node's process exists (a paused one too)."""
        self._check(node_id)
        process = self._processes.get(node_id)
        return process is not None and process.alive()

    def pid(self, node_id: str) -> int:
        """Process id of a running node."""
        return self._running(node_id).pid

    def stop(self) -> None:
        """Stop all nodes (SIGTERM, then SIGKILL), sweep their groups, remove a temporary directory."""
        running = [process for process in self._processes.values() if process.alive()]
        for process in running:
            # A paused process acts on SIGTERM only after SIGCONT.
            process.signal(signal.SIGTERM)
            process.signal(signal.SIGCONT)
        deadline = time.monotonic() + STOP_GRACE_S
        for process in running:
            process.wait_ended(max(0.0, deadline - time.monotonic()))
        for node_id in list(self._processes):
            self._forget(node_id)
        self._dismiss_reaper()
        if self._own_dir:
            shutil.rmtree(self.base_dir, ignore_errors=True)

    async def wait_ready(self, timeout: float = 30.0) -> str:
        """Wait until every running node answers, knows the same leader, and the leader counts all of them as
        active. Returns the leader's id. Raises ClusterFailed with the tails of the logs."""
        running = [node_id for node_id in self.node_ids if self.alive(node_id)]
        if not running:
            raise ClusterFailed(f"no node runs; start() first\n{self.log_tails()}")
        began = time.monotonic()
        leader, why = await wait_agreed(self, running, timeout)
        if why:
            waited = time.monotonic() - began
            raise ClusterFailed(f"not ready after {waited:.1f} s: {why}\n{self.log_tails()}")
        return leader

    def failed_nodes(self) -> list[str]:
        """Nodes whose process ended although nobody here ended it."""
        ended = [node_id for node_id, process in self._processes.items() if not process.alive()]
        return [node_id for node_id in ended if node_id not in self._expected]

    def log_path(self, node_id: str) -> Path:
        """File that gets the standard output and error of a node."""
        return self.base_dir / f"{node_id}.log"

    def log_tail(self, node_id: str, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines of a node's log."""
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log_path(node_id).read_text(errors="replace").splitlines()[-lines:])
        return ""

    def log_tails(self) -> str:
        """The last lines of every node's log under one heading each, for error messages."""
        return "\n".join(f"--- {node_id}\n{self.log_tail(node_id)}" for node_id in self.node_ids)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _check(self, node_id: str) -> None:
        if node_id not in self.addresses:
            raise ValueError(f"node_id: {node_id!r} is none of {', '.join(self.node_ids)}")

    def _running(self, node_id: str) -> NodeProcess:
        if not self.alive(node_id):
            raise ClusterFailed(f"{node_id} does not run\n{self.log_tail(node_id)}")
        return self._processes[node_id]

    def _forget(self, node_id: str) -> int:
        process = self._processes.pop(node_id, None)
        if process is None:
            return 0
        code = process.sweep()
        self._tell_reaper(f"-{process.pid}")
        return code

    def _tell_reaper(self, line: str) -> None:
        if self._reaper is None:
            script = Path(__file__).with_name("reaper.py")
            command = [sys.executable, "-I", "-S", str(script)]
            self._reaper = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        with contextlib.suppress(BrokenPipeError):
            pipe = _pipe(self._reaper)
            pipe.write(f"{line}\n".encode())
            pipe.flush()

    def _dismiss_reaper(self) -> None:
        if self._reaper is None:
            return
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._reaper).close()
        self._reaper.wait()
        self._reaper = None


def _addresses(nodes: int, ports: Sequence[int], hosts: Sequence[str]) -> list[str]:
    if not hosts:
        return [f"127.0.0.1:{port}" for port in ports] or free_addresses(nodes)
    return [f"{host}:{port}" for host, port in zip(hosts, ports or [PORT_FIRST] * nodes, strict=True)]


def free_addresses(count: int) -> list[str]:
    """`count` loopback addresses "127.0.0.1:port" nobody listens on now."""
    chosen: list[str] = []
    # The system's own dice: programs that start clusters at the same moment must not try the same ports.
    ports = random.SystemRandom().sample(range(PORT_FIRST, PORT_LAST), 50 * count)
    for port in ports:
        if len(chosen) == count:
            return chosen
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            chosen.append(f"127.0.0.1:{port}")
    raise ClusterFailed(f"fewer than {count} free ports between {PORT_FIRST} and {PORT_LAST} on 127.0.0.1")


def _environment() -> dict[str, str]:
    """Ours, for the nodes. Without byte code on the disk every start of every node would compile all modules
    anew, which takes longer than all the rest of it."""
    ours = without_places(os.environ)
    ours.pop("PYTHONDONTWRITEBYTECODE", None)
    return ours


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin
