"""What the node keeps for one confined process: its working folder, its box, and its way to the proxy."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shutil
import socket
from pathlib import Path

from coterie.node.skillhost.egress import Egress
from coterie.node.skillhost.nouns import ConfinedSkill, SandboxOptions
from coterie.node.skillhost.proxy import Proxy
from coterie.skills.sandbox import Box, Grant
from coterie.skills.targets import parse_target

ENTRIES_SEEN_MAX = 100_000
DOOR_BYTES = 16


class Cell:
    """One process's. Made before it, given to one run, closed after it is dead."""

    def __init__(self, folder: Path, options: SandboxOptions, own_user: bool, network: bool) -> None:
        folder.mkdir(mode=0o700)
        self.folder = folder
        self.box = Box(
            work_dir=str(folder),
            file_bytes_max=options.disk_bytes_max,
            own_user=own_user,
            network=network,
        )
        self.gate_fds: tuple[int, ...] = ()
        self._options = options
        self._given = False
        self._gate: socket.socket | None = None
        self._proxy: Proxy | None = None
        self._opening: asyncio.Task[None] | None = None
        if network:
            self._gate, theirs = socket.socketpair()
            self._gate.setblocking(False)
            self.gate_fds = (theirs.detach(),)

    def give_to(self, skill: ConfinedSkill, task_id: str) -> Grant:
        """Let this skill's run have it, and no other ever; what its process is to be granted for that."""
        assert not self._given and bool(skill.network) == self.box.network
        self._given = True
        if self._gate is not None:
            targets = tuple(parse_target(text) for text in skill.network)
            inside = tuple(ipaddress.ip_network(text) for text in self._options.inside_networks)
            self._proxy = Proxy(Egress(targets, inside), task_id)
            opening = self._take_door(self._gate, self._proxy)
            self._opening = asyncio.get_running_loop().create_task(opening, name="door of a skill")
        return Grant(
            code_dirs=(str(skill.folder),),
            memory_bytes_max=skill.memory_bytes or self._options.memory_bytes,
            cpus=skill.cpus,
        )

    async def _take_door(self, gate: socket.socket, proxy: Proxy) -> None:
        """Wait for the listening socket that the process makes in its own network, and serve it."""
        loop, came = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(gate.fileno(), came.set)
        try:
            await came.wait()
        finally:
            loop.remove_reader(gate.fileno())
        _, fds, _, _ = socket.recv_fds(gate, DOOR_BYTES, 1)
        if fds:
            await proxy.serve(socket.socket(fileno=fds[0]))

    async def close(self) -> None:
        """Cut the network off and remove the folder. The process is dead."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if self._proxy is not None:
            await self._proxy.close()
        if self._gate is not None:
            self._gate.close()
        await asyncio.to_thread(remove_tree, self.folder)


def bytes_used(folder: Path) -> int:
    """What the files beneath take on the disk; a very crowded folder counts as endless."""
    total = seen = 0
    for place, folders, files in os.walk(folder, onerror=None):
        seen += len(folders) + len(files)
        if seen > ENTRIES_SEEN_MAX:
            return 1 << 62
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except OSError:
                continue
    return total


def remove_tree(folder: Path) -> None:
    """Also what the skill made unreadable for its owner, which we may be."""

    def open_up(function: object, path: str, error: object) -> None:
        try:
            os.chmod(Path(path).parent, 0o700, follow_symlinks=True)
            os.chmod(path, 0o700) if not os.path.islink(path) else None
        except OSError:
            return

    for _ in range(3):  # opened on the first round, removed on the next
        shutil.rmtree(folder, onerror=open_up)
        if not folder.exists():
            return
