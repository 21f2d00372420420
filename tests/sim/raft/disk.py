"""A disk in memory that forgets what was not synced when the power goes, and can die in mid-operation."""

from __future__ import annotations

import random

from coterie.raft.errors import DiskFull

SECTOR = 512


class Died(BaseException):
    """The process was killed while it used the disk. Not an Exception: no handler of ours may keep it."""


class Inode:
    """`data` is what a process reads; `durable` is what outlives the power."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = b""
        self.reserved = 0  # behind the end


class SimFile:
    """A handle of one process; when that process is dead, using it is an error in the simulator's target."""

    def __init__(self, disk: SimDisk, inode: Inode) -> None:
        self._disk, self._inode, self._process = disk, inode, disk.process

    def _check(self) -> None:
        if self._process != self._disk.process:
            raise Died

    def append(self, data: bytes) -> None:
        self._check()
        inode = self._inode
        if len(data) > inode.reserved and len(data) > inode.reserved + self._disk.free:
            inode.reserved = 0  # the torn part was cut, and what was allocated behind it
            raise DiskFull(f"no room for {len(data)} bytes")
        if self._disk.burn():
            inode.data += data[: self._disk.rng.randint(0, len(data))]
            raise Died
        inode.reserved = max(0, inode.reserved - len(data))
        inode.data += data

    def reserve(self, size: int) -> int:
        self._check()
        inode = self._inode
        if inode.reserved < size // 2 and size - inode.reserved <= self._disk.free:
            inode.reserved = size
        return inode.reserved

    def give_back(self, size: int) -> bool:
        self._check()
        self._disk.operate()
        inode = self._inode
        del inode.data[max(0, len(inode.data) - size) :]
        inode.durable, inode.reserved = bytes(inode.data), 0
        return bool(inode.data)

    def overwrite(self, data: bytes) -> None:
        self._check()
        if self._disk.burn():
            raise Died
        self._inode.data[:] = data

    def rewrite(self, offset: int, data: bytes) -> None:
        """Whatever part of it gets there, nothing changes."""
        self._check()
        assert self._inode.data[offset : offset + len(data)] == data
        self._disk.operate()

    def sync(self) -> None:
        self._check()
        self._disk.operate()
        self._inode.durable = bytes(self._inode.data)

    def read_at(self, offset: int, size: int) -> bytes:
        self._check()
        return bytes(self._inode.data[offset : offset + size])

    def size_bytes(self) -> int:
        self._check()
        return len(self._inode.data)

    def close(self) -> None:
        """Handles cost nothing here."""


class SimDisk:
    """The files of one node. They outlive its processes."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.process = 0  # which start of the node may use it
        self.fuse: int | None = None  # operations left to live
        self.size_bytes = 1 << 30
        self.taken_bytes = 0  # by other programs
        self._names: dict[str, Inode] = {}
        self._durable_names: dict[str, Inode] = {}
        self._unsynced: list[tuple[str, str, Inode | None]] = []  # (kind, name, inode) in order

    @property
    def free(self) -> int:
        inodes = {id(inode): inode for inode in self._names.values()}.values()
        used = sum(len(inode.data) + inode.reserved for inode in inodes)
        return max(0, self.size_bytes - self.taken_bytes - used)

    def drop_reserves(self) -> None:
        for inode in self._names.values():
            inode.reserved = 0

    def room(self) -> tuple[int, int]:
        return self.free, self.size_bytes

    # --- dying ---

    def burn(self) -> bool:
        """One operation of the fuse; true when it is the last."""
        if self.fuse is None:
            return False
        self.fuse -= 1
        return self.fuse < 0

    def operate(self) -> None:
        if self.burn():
            raise Died

    def kill(self) -> None:
        """The process is gone. What it gave to the operating system stays."""
        self.process += 1
        self.fuse = None

    def lose_power(self) -> None:
        """Of what was not synced, any part may be there: names in order, sectors in any order."""
        self.kill()
        names = dict(self._durable_names)
        for kind, name, inode in self._unsynced[: self.rng.randint(0, len(self._unsynced))]:
            if kind == "name" and inode is not None:
                names[name] = inode
            else:
                names.pop(name, None)
        self._names, self._durable_names, self._unsynced = names, dict(names), []
        for inode in {id(inode): inode for inode in names.values()}.values():
            inode.reserved = 0
            inode.data = bytearray(self._torn(inode))
            inode.durable = bytes(inode.data)

    def _torn(self, inode: Inode) -> bytes:
        kept = len(inode.durable)
        if bytes(inode.data[:kept]) != inode.durable:
            return inode.durable  # it was cut and not synced
        end = self.rng.randint(kept, max(kept, len(inode.data)))
        tail = bytearray(inode.data[kept:end])
        lost = self.rng.choice([0.0, 0.3, 0.8])  # the sectors before the end got there in any order
        for sector in range(kept // SECTOR, end // SECTOR + 1):
            low, high = max(sector * SECTOR - kept, 0), min((sector + 1) * SECTOR - kept, len(tail))
            if low < high and self.rng.random() < lost:
                tail[low:high] = bytes(high - low)
        return inode.durable + bytes(tail)

    # --- coterie.raft.disk.Disk ---

    def open(self, name: str) -> SimFile:
        return SimFile(self, self._names[name])

    def create(self, name: str) -> SimFile:
        self.operate()
        inode = Inode()
        self._names[name] = inode
        self._unsynced.append(("name", name, inode))
        return SimFile(self, inode)

    def read(self, name: str) -> bytes:
        return bytes(self._names[name].data)

    def size(self, name: str) -> int:
        return len(self._names[name].data)

    def exists(self, name: str) -> bool:
        return name in self._names

    def truncate(self, name: str, size: int) -> None:
        self.operate()
        inode = self._names[name]
        del inode.data[size:]
        inode.durable = bytes(inode.data)

    def rename(self, old: str, new: str) -> None:
        self.operate()
        inode = self._names.pop(old)
        self._names[new] = inode
        # One atomic operation: after a crash the file has one of the two names.
        self._unsynced.append(("name", new, inode))

    def remove(self, name: str) -> None:
        self.operate()
        if self._names.pop(name, None) is not None:
            self._unsynced.append(("gone", name, None))

    def sync_dir(self) -> None:
        self.operate()
        self._durable_names = dict(self._names)
        self._unsynced = []

    def path_of(self, name: str) -> str:
        return f"sim:{name}"

    def lock(self) -> None:
        """One process at a time is the simulator's business."""

    def close(self) -> None:
        """See lock."""

    def flip_bit(self, name: str, position: int, bit: int) -> None:
        """Damage a durable file."""
        inode = self._names[name]
        inode.data[position] ^= 1 << bit
        inode.durable = bytes(inode.data)
