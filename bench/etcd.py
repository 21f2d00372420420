"""etcd as the yardstick: three members on loopback, synced to disk, puts of small values.

Peers talk mutual TLS with certificates of the same making as ours; the client port is plain text.
The load comes from h2load (package nghttp2-client) when it is there: it speaks gRPC's HTTP/2 at a fraction
of the cost of a Python client, so that etcd and not its client is measured. A Python grpc.aio client (two
processes) is measured too: it is what our own client's figures compare with."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench import etcd_wire
from bench.figures import Section, WorkNotDone, percentile
from bench.options import Options, run_alone
from bench.processes import run_python
from coterie.node.localcluster import free_addresses
from coterie.node.tls import init_tls, node_paths

NAME = "etcd"
INSTALL = "apt-get install etcd-server etcd-client"
VALUE_BYTES = 64
OUTSTANDING = (1, 64, 512)
PYTHON_CLIENTS = 2
START_S = 30.0
WARM_UP_PUTS = 500
FIRST_GUESS_PER_S = 500.0


class EtcdCluster:
    """etcd processes in a temporary directory. Use it in a `with` block. With a delay strace holds up each
    fdatasync for so long (and no other call: a filter in the kernel lets them pass)."""

    def __init__(self, members: int, tls: bool, sync_delay_ms: float = 0.0) -> None:
        self._tracer = _slowed(sync_delay_ms) if sync_delay_ms else []
        self._directory = Path(tempfile.mkdtemp(prefix="bench-etcd-"))
        self._names = [f"member-{number}" for number in range(1, members + 1)]
        addresses = free_addresses(2 * members)
        self.clients = dict(zip(self._names, addresses[:members], strict=True))
        self._peers = dict(zip(self._names, addresses[members:], strict=True))
        self._tls = tls
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        if self._tls:
            init_tls(self._directory / "tls", self._names, hosts=["127.0.0.1", "localhost"])
        try:
            for name in self._names:
                self._processes.append(self._start(name))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        scheme = "https" if self._tls else "http"
        members = ",".join(f"{member}={scheme}://{peer}" for member, peer in self._peers.items())
        command = [*self._tracer, "etcd", "--name", name, "--data-dir", str(self._directory / name)]
        command += ["--listen-client-urls", f"http://{self.clients[name]}"]
        command += ["--advertise-client-urls", f"http://{self.clients[name]}"]
        command += ["--listen-peer-urls", f"{scheme}://{self._peers[name]}"]
        command += ["--initial-advertise-peer-urls", f"{scheme}://{self._peers[name]}"]
        command += ["--initial-cluster", members, "--initial-cluster-state", "new"]
        command += ["--logger", "zap", "--log-level", "error"]
        if self._tls:
            paths = node_paths(self._directory / "tls", name)
            command += ["--peer-client-cert-auth", "--peer-trusted-ca-file", str(paths.ca)]
            command += ["--peer-cert-file", str(paths.cert), "--peer-key-file", str(paths.key)]
        with (self._directory / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _stop(self) -> None:
        for process in self._processes:
            os.killpg(process.pid, signal.SIGKILL)  # the tracer, if there is one, and etcd
            process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def leader(self) -> str:
        """Client address of the leader; waits for one."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for status in self._statuses():
                if status["Status"]["leader"] == status["Status"]["header"]["member_id"]:
                    return str(status["Endpoint"])
            await asyncio.sleep(0.1)
        logs = [(self._directory / f"{name}.log").read_text(errors="replace")[-500:] for name in self._names]
        raise WorkNotDone(f"etcd had no leader after {START_S:g} s: {' | '.join(logs)}")

    def revision(self, address: str) -> int:
        """How many puts this member has applied, plus one."""
        answers = [status for status in self._statuses() if status["Endpoint"] == address]
        return int(answers[0]["Status"]["header"]["revision"]) if answers else 0

    def _statuses(self) -> list[dict[str, Any]]:
        endpoints = ",".join(self.clients.values())
        command = ["etcdctl", "--endpoints", endpoints, "endpoint", "status", "-w", "json"]
        asked = subprocess.run(
            command, capture_output=True, env={"ETCDCTL_API": "3"}, executable=shutil.which("etcdctl")
        )
        if asked.returncode:
            return []
        answer: list[dict[str, Any]] = json.loads(asked.stdout)
        return answer


@dataclass(frozen=True, slots=True)
class Puts:
    """One steady load of puts."""

    per_second: float
    p50_ms: float
    p99_ms: float


def _slowed(sync_delay_ms: float) -> list[str]:
    delay = f"inject=fdatasync:delay_enter={int(sync_delay_ms * 1000)}"
    return ["strace", "-f", "--seccomp-bpf", "-qqq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", delay]


def version() -> str:
    """What the installed etcd says about itself; empty when the two programs are not there."""
    if not shutil.which("etcd") or not shutil.which("etcdctl"):
        return ""
    said = subprocess.run(["etcd", "--version"], capture_output=True, text=True).stdout
    return said.splitlines()[0].rpartition(" ")[2] if said else ""


async def measure(options: Options) -> Section:
    """Puts per second and latency at 1, 64 and 512 outstanding, by h2load and by a Python client."""
    installed = version()
    if not installed:
        remedy = f"etcd is not installed; to have the yardstick: {INSTALL}"
        return Section(NAME, "etcd, the yardstick", skipped=remedy)
    section = Section(NAME, f"etcd {installed}, 3 members, synced puts of {VALUE_BYTES} B")
    section.details["version"] = installed
    with EtcdCluster(3, options.tls) as cluster:
        load = _Load(cluster, await cluster.leader(), options.seconds / 2)
        await load.warm_up()
        if shutil.which("h2load"):
            for outstanding in OUTSTANDING:
                rounds = [await load.by_h2load(outstanding) for _ in range(options.runs)]
                _enter(section, f"h2load_{outstanding}", f"h2load, {outstanding} outstanding", rounds)
        else:
            section.notes.append(
                "h2load is not installed (apt-get install nghttp2-client): only the Python client is "
                "measured, which holds etcd back; read the ratios to etcd with that in mind."
            )
        for outstanding in (1, 64):
            rounds = [await load.by_python(outstanding) for _ in range(options.runs)]
            _enter(section, f"python_{outstanding}", f"Python client, {outstanding} outstanding", rounds)
    section.notes.append(
        f"Puts go to etcd's leader in plain text; peers use {'mutual TLS' if options.tls else 'plain text'}. "
        "Every put is accounted for: the leader's revision must have grown by their number."
    )
    return section


async def puts_of(
    members: int, outstanding: Sequence[int], options: Options, sync_delay_ms: float = 0.0
) -> dict[int, list[Puts]]:
    """Loads of etcd's leader by h2load (where that is missing: the Python client), by outstanding puts."""
    with EtcdCluster(members, options.tls, sync_delay_ms) as cluster:
        load = _Load(cluster, await cluster.leader(), options.seconds / 2)
        await load.warm_up()
        one = load.by_h2load if shutil.which("h2load") else load.by_python
        return {count: [await one(count) for _ in range(options.runs)] for count in outstanding}


class _Load:
    """Puts against one member, each round checked against the store's revision."""

    def __init__(self, cluster: EtcdCluster, address: str, seconds: float) -> None:
        self._cluster, self._address, self._seconds = cluster, address, seconds
        self._rates: dict[int, float] = {}

    async def warm_up(self) -> None:
        await self._python(8, 1.0)

    async def by_python(self, outstanding: int) -> Puts:
        return await self._checked(self._python(outstanding, self._seconds))

    async def by_h2load(self, outstanding: int) -> Puts:
        if outstanding not in self._rates:  # how many puts fill the time is tried out first
            tried = await self._checked(self._h2load(outstanding, WARM_UP_PUTS))
            self._rates[outstanding] = tried.per_second
        puts = max(WARM_UP_PUTS, int(self._rates[outstanding] * self._seconds))
        return await self._checked(self._h2load(outstanding, puts))

    async def _checked(self, load: Any) -> Puts:
        before = self._cluster.revision(self._address)
        count, puts = await load
        grown = self._cluster.revision(self._address) - before
        if grown != count:
            raise WorkNotDone(f"etcd answered {count} puts, but its revision grew by {grown}")
        assert isinstance(puts, Puts)
        return puts

    async def _python(self, outstanding: int, seconds: float) -> tuple[int, Puts]:
        processes = min(PYTHON_CLIENTS, outstanding)
        plan = {
            "address": self._address,
            "outstanding": outstanding // processes,
            "seconds": seconds,
            "value_bytes": VALUE_BYTES,
        }
        answers = await run_python("bench.etcd_load", [plan | {"prefix": n} for n in range(processes)])
        took = [ms for answer in answers for ms in answer["latencies_ms"]]
        lasted = max(answer["ended"] for answer in answers) - min(answer["began"] for answer in answers)
        return len(took), Puts(len(took) / lasted, percentile(took, 0.5), percentile(took, 0.99))

    async def _h2load(self, outstanding: int, puts: int) -> tuple[int, Puts]:
        return puts, await asyncio.to_thread(_run_h2load, self._address, outstanding, puts)


def _run_h2load(address: str, outstanding: int, puts: int) -> Puts:
    with tempfile.TemporaryDirectory(prefix="bench-h2load-") as directory:
        body, log = Path(directory, "body"), Path(directory, "log")
        body.write_bytes(etcd_wire.frame(etcd_wire.put_request(b"bench", b"x" * VALUE_BYTES)))
        command = ["h2load", f"http://{address}{etcd_wire.PUT}", "-n", str(puts)]
        command += ["-c", "1", "-m", str(outstanding), "-d", str(body), f"--log-file={log}"]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise WorkNotDone(f"h2load failed: {done.stderr.strip() or done.stdout.strip()}")
        return _read_log(log.read_text(encoding="ascii").splitlines())


def _read_log(lines: Sequence[str]) -> Puts:
    """h2load's log: start (us since the epoch), HTTP status, microseconds until the end of the answer."""
    rows = [tuple(int(field) for field in line.split()) for line in lines]
    took = [microseconds / 1000 for _, _, microseconds in rows]
    began = min(start for start, _, _ in rows)
    ended = max(start + microseconds for start, _, microseconds in rows)
    return Puts(len(rows) / ((ended - began) / 1e6), percentile(took, 0.5), percentile(took, 0.99))


def _enter(section: Section, key: str, title: str, rounds: Sequence[Puts]) -> None:
    section.add(f"{key}.per_s", title, "puts/s", [puts.per_second for puts in rounds])
    section.add(f"{key}.p50", f"{title}: p50", "ms", [puts.p50_ms for puts in rounds])
    section.add(f"{key}.p99", f"{title}: p99", "ms", [puts.p99_ms for puts in rounds])


if __name__ == "__main__":
    run_alone(NAME, measure)
