"""The zygote: a small process, started before the node loads gRPC, that forks a child per concurrent run.

It holds no socket of the cluster and no thread. It kills: children the node asks it to kill, all *running*
children when the lease has run out (also when the node is stopped and says nothing), and everything when the
node dies.

Frames from the node: `hello` (first), `spawn`, `kill`, `lease`. With `spawn` come the descriptors of the
child's socket and of its output pipe; for a confined child also `box`, and if that has a network, a third
descriptor through which its door is handed out. Frames to the node: `ready`, `spawned`, `unspawned`,
`exited`.
End of stream means that the node is gone.
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coterie.skills import confine, sandbox
from coterie.skills.child import child_main
from coterie.skills.frames import RECEIVE_BYTES, Frame, FrameDecoder, Header, encode_frame
from coterie.skills.lease import NO_SLOT, LeaseBoard, Place, Slot
from coterie.skills.limits import Limits
from coterie.skills.preload import Catalogue

CONTROL_BODY_BYTES_MAX = 0
CONTROL_HEADER_BYTES_MAX = 16 * 1024 * 1024
SLOTS_MAX = 4_096
FDS_PER_MESSAGE_MAX = 32
SWEEP_S = 2.0


@dataclass(slots=True)
class ForkedChild:
    """A living child, as the zygote knows it. `reason` says who killed it: lease, kill or nobody yet."""

    number: int
    pid: int
    slot: int
    reason: str = ""


class Zygote:
    """One poll loop, no threads, no blocking calls."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._decoder = FrameDecoder(CONTROL_BODY_BYTES_MAX, CONTROL_HEADER_BYTES_MAX)
        self._fds: deque[int] = deque()
        self._unsent = bytearray()
        self._children: dict[int, ForkedChild] = {}
        self._board = LeaseBoard(SLOTS_MAX)
        self._free_slots = list(range(SLOTS_MAX))
        self._lease_enforced = False
        self._leaving = False
        self._wake_out, self._wake_in = os.pipe()
        self._limits = Limits()
        self._catalogue = Catalogue()

    def serve(self) -> None:
        """Work until the node is gone, then kill all that is left."""
        if not self._hello():
            return
        try:
            self._watch()
        finally:
            self._sweep()

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._wake_out, select.POLLIN)
        while not self._leaving:
            wanted = select.POLLIN | (select.POLLOUT if self._unsent else 0)
            poll.register(self._control, wanted)
            for fd, _ in poll.poll(self._lease_left_ms()):
                if fd == self._control.fileno():
                    self._flush()
                    self._receive()
            # Before anything else that is new: a lease that has run out tolerates no work.
            self._enforce_lease()
            self._reap()

    def _catch_signals(self) -> None:
        os.set_blocking(self._wake_out, False)
        os.set_blocking(self._wake_in, False)
        signal.set_wakeup_fd(self._wake_in, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _do_nothing)
        signal.signal(signal.SIGTERM, self._on_terminate)
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(ignored, signal.SIG_IGN)

    def _on_terminate(self, signum: int, frame: object) -> None:
        self._leaving = True

    def _hello(self) -> bool:
        """Read the first frame, load the skills, report them. False: the node is gone.

        The node sends nothing else before it knows that we are ready.
        """
        frames: list[Frame] = []
        while not frames:
            data = self._control.recv(RECEIVE_BYTES)
            if not data:
                return False
            frames = self._decoder.feed(data)
        header = frames[0].header
        self._limits = Limits(**header["limits"])
        self._catalogue.fill([Path(place) for place in header["skill_dirs"]], self._limits.load_timeout_ms)
        _import_ahead(header["preload"])
        layers = sandbox.probe() if header["probe"] else []
        if layers:
            sandbox.prepare()
        # What was loaded stays for ever; keep the collector from touching (and copying) its pages.
        gc.collect()
        gc.freeze()
        # Only now: until here SIGTERM, which the death of the node sends, must end a hanging import.
        self._catch_signals()
        self._control.setblocking(False)
        self._send(
            {
                "op": "ready",
                "skills": [skill.described() for skill in self._catalogue.entries()],
                "problems": [asdict(problem) for problem in self._catalogue.problems],
                "layers": [asdict(layer) for layer in layers],
            }
        )
        return True

    def _receive(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, RECEIVE_BYTES, FDS_PER_MESSAGE_MAX)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._leaving = True
            return
        for fd in fds:
            os.set_inheritable(fd, False)
        self._fds.extend(fds)
        for frame in self._decoder.feed(data):
            self._on_frame(frame.header)

    def _on_frame(self, header: Header) -> None:
        match header["op"]:
            case "spawn":
                self._spawn(header["child"], header.get("box"))
            case "kill":
                child = next((c for c in self._children.values() if c.number == header["child"]), None)
                if child is not None:
                    _kill(child, "kill")
            case "lease":
                # The earlier of both clocks' views: a message that was long under way grants no more time.
                until = min(header["until"], time.monotonic() + header["valid_for_ms"] / 1_000)
                self._board.deadline = until
                self._lease_enforced = False

    def _spawn(self, number: int, box: Header | None) -> None:
        began = time.monotonic_ns()
        fds = [self._fds.popleft() for _ in range(3 if box is not None and box["network"] else 2)]
        slot = self._free_slots.pop()
        # A confined child does not see the board: it counts as running from its first moment to its last.
        self._board.mark(slot, box is not None)
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._free_slots.append(slot)
            self._send({"op": "unspawned", "child": number, "message": f"fork: {error.strerror}"})
            return
        finally:
            if os.getpid() == parent:
                for fd in fds:
                    os.close(fd)
        if pid == 0:
            self._become_child(parent, slot, fds, box)
        self._children[pid] = ForkedChild(number, pid, slot)
        if box is not None:
            self._lease_enforced = False
        fork_us = (time.monotonic_ns() - began) // 1_000
        self._send({"op": "spawned", "child": number, "pid": pid, "fork_us": fork_us})

    def _become_child(self, parent: int, slot: int, fds: list[int], box: Header | None) -> None:
        """In the forked process. Never returns."""
        try:
            os.setsid()
            confine.die_with_parent(parent, signal.SIGKILL)
            confine.adopt_orphans()
            signal.set_wakeup_fd(-1)
            for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(signum, signal.SIG_DFL)
            self._control.close()
            os.close(self._wake_out)
            os.close(self._wake_in)
            for fd in self._fds:
                os.close(fd)
            sock_fd, output_fd = fds[:2]
            confine.take_over_stdio(output_fd)
            confine.limit_resources(self._limits)
            place: Place = Slot(self._board, slot)
            walls = None
            if box is not None:
                self._board.leave()
                place = NO_SLOT
                walls = _wall_in(box, sock_fd, fds[2:], parent)
            child_main(socket.socket(fileno=sock_fd), self._limits, self._catalogue.find, place, walls)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(70)

    def _lease_left_ms(self) -> float | None:
        if self._lease_enforced or self._board.deadline == math.inf:
            return None
        return max(0, math.ceil((self._board.deadline - time.monotonic()) * 1_000))

    def _enforce_lease(self) -> None:
        if self._lease_enforced or not self._board.expired:
            return
        self._lease_enforced = True
        for child in self._children.values():
            if self._board.is_busy(child.slot):
                _kill(child, "lease")

    def _reap(self) -> None:
        try:
            os.read(self._wake_out, 4_096)
        except BlockingIOError:
            return
        died = False
        while (pid := _next_dead()) != 0:
            child = self._children.pop(pid, None)
            if child is not None:
                # While the dead leader is not waited for, its process group cannot be anyone else's.
                _kill_group(pid)
            _, status = os.waitpid(pid, 0)
            died = True
            if child is not None:
                self._free_slots.append(child.slot)
                self._send({"op": "exited", "child": child.number, "status": status, "reason": child.reason})
        if died:
            self._kill_orphans()

    def _kill_orphans(self) -> None:
        """Descendants that left their group came to us when their parent died. None outlives its run."""
        for pid in confine.child_pids():
            if pid not in self._children:
                _signal(pid)

    def _sweep(self) -> None:
        for child in self._children.values():
            _kill(child, "kill")
        self._children.clear()
        give_up_at = time.monotonic() + SWEEP_S
        while time.monotonic() < give_up_at:
            self._kill_orphans()
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                time.sleep(0.001)

    def _send(self, header: dict[str, Any]) -> None:
        self._unsent += encode_frame(header)
        self._flush()

    def _flush(self) -> None:
        """Send what the kernel takes. The node may be stopped: never wait for it."""
        while self._unsent:
            try:
                sent = self._control.send(self._unsent)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._leaving = True
                return
            del self._unsent[:sent]


def _import_ahead(modules: list[str]) -> None:
    """What confined skills are likely to import: read once here, it costs their processes nothing."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            continue


def _wall_in(fields: Header, sock_fd: int, gate_fds: list[int], parent: int) -> sandbox.Walls:
    """Put up the walls that no skill has a say in, and hand the door to the node, if there is one."""
    walls = sandbox.Walls(sandbox.Box(**fields), frozenset({sock_fd, *gate_fds}), parent)
    if walls.door is not None:
        with socket.socket(fileno=gate_fds[0]) as gate:
            socket.send_fds(gate, [b"door"], [walls.door.fileno()])
        walls.door.close()
    return walls


def _kill(child: ForkedChild, reason: str) -> None:
    if not _is_dead(child.pid):
        child.reason = child.reason or reason
    # By pid too: just after the fork it does not lead a group yet.
    _signal(child.pid)
    _kill_group(child.pid)


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # No such group, or (on macOS) one of zombies only.
        return


def _next_dead() -> int:
    try:
        dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return 0 if dead is None else dead.si_pid


def _is_dead(pid: int) -> bool:
    """Dead, not yet waited for: it needed nobody to kill it."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _do_nothing(signum: int, frame: object) -> None:
    """SIGCHLD must be handled for the wake-up pipe to be written."""


def main() -> None:
    """`python -m coterie.skills.zygote FD PARENT_PID`: FD is the inherited control socket."""
    fd, parent_pid = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    # SIGTERM, so that descendants of skills are swept too; until it is caught it kills at once.
    confine.die_with_parent(parent_pid, signal.SIGTERM)
    confine.adopt_orphans()
    confine.renounce_privileges()
    confine.open_few_files()
    sys.argv[1:] = []
    Zygote(socket.socket(fileno=fd)).serve()


if __name__ == "__main__":
    main()
