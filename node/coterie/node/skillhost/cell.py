"""What the node keeps for one confined process: its working folder, its box, and its way to the proxy."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from pathlib import Path

from coterie.node.skillhost.egress import Egress
from coterie.node.skillhost.nouns import ConfinedSkill, SandboxOptions
from coterie.node.skillhost.proxy import Proxy
from coterie.node.skillhost.trees import bytes_used, remove_tree, unlinked_bytes
from coterie.skills.sandbox import Box, Grant
from coterie.skills.targets import parse_target

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
        self._gate_fds: tuple[int, ...] = ()
        self._options = options
        self._given = False
        self._gate: socket.socket | None = None
        self._proxy: Proxy | None = None
        self._opening: asyncio.Task[None] | None = None
        if network:
            self._open_gate()

    def _open_gate(self) -> None:
        try:
            self._gate, theirs = socket.socketpair()
        except OSError:
            self.folder.rmdir()
            raise
        self._gate.setblocking(False)
        self._gate_fds = (theirs.detach(),)

    def take_gate(self) -> tuple[int, ...]:
        """The process's end of the gate, if it has a network; whoever takes it closes it."""
        fds, self._gate_fds = self._gate_fds, ()
        return fds

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

    def bytes_used(self, pid: int) -> int:
        """What it takes on the disk, with what the process holds that has no name any more. Takes a while."""
        try:
            owner = self.folder.stat().st_uid
        except FileNotFoundError:
            return 0
        return bytes_used(self.folder) + unlinked_bytes(pid, owner)

    async def close(self) -> None:
        """Cut the network off and remove the folder. The process is dead."""
        try:
            if self._opening is not None:
                self._opening.cancel()
                await asyncio.wait([self._opening])
            if self._proxy is not None:
                await self._proxy.close()
            if self._gate is not None:
                self._gate.close()
            for fd in self.take_gate():  # its process could not be made
                os.close(fd)
        finally:
            await asyncio.to_thread(remove_tree, self.folder)
