"""Hosts in network namespaces behind one bridge, and what can go wrong between them.

The calling process must have a network and a mount namespace of its own (`unshare --net --mount`): the bridge
is in there, so nothing leaves it and everything is gone when the process is. A packet is dropped where it
arrives; so one direction can be cut alone."""

from __future__ import annotations

import subprocess
import threading
from collections import Counter
from collections.abc import Iterable

HERE = 254  # the number of the host the calling process is
NET = "198.18.0."  # set aside for tests of networks: RFC 2544
LOSS_PERCENT = 30

_TABLE = f"""
add table inet cuts;
add set inet cuts silent {{ type ipv4_addr; }};
add set inet cuts lossy {{ type ipv4_addr; }};
add chain inet cuts arriving {{ type filter hook input priority 0; }};
add rule inet cuts arriving ip saddr @silent drop;
add rule inet cuts arriving ip saddr @lossy numgen random mod 100 < {LOSS_PERCENT} drop;
"""


class Network:
    """Hosts 1 to `hosts`; the calling process is the host HERE."""

    def __init__(self, hosts: int) -> None:
        self.hosts = range(1, hosts + 1)
        self._lock = threading.Lock()  # counting and cutting go together; faults overlap
        self._cuts: Counter[tuple[str, int, int]] = Counter()  # (set, who does not hear, whom)
        _run("mkdir", "-p", "/run/netns")
        _run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")  # our names are nobody else's
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "br0", "type", "bridge")
        _run("ip", "addr", "add", f"{NET}{HERE}/24", "dev", "br0")
        _run("ip", "link", "set", "br0", "up")
        for host in self.hosts:
            self._add(host)
        self._nft(HERE, _TABLE)

    def address(self, host: int) -> str:
        return f"{NET}{host}"

    def enter(self, host: int) -> list[str]:
        """The beginning of a command line that runs on the host. `ip netns exec` would not do: it makes a
        mount namespace too, which keeps file systems alive that were unmounted here."""
        return [] if host == HERE else ["nsenter", f"--net=/run/netns/host{host}"]

    def cut(self, deaf: Iterable[int], silent: Iterable[int]) -> list[tuple[str, int, int]]:
        """Each of `deaf` hears none of `silent` any more. Returns what to give to `heal`."""
        return self._change("silent", deaf, silent)

    def cut_both(self, some: Iterable[int], others: Iterable[int]) -> list[tuple[str, int, int]]:
        """Nothing passes between `some` and `others`."""
        some, others = list(some), list(others)
        return self.cut(some, others) + self.cut(others, some)

    def lose(self, deaf: Iterable[int], silent: Iterable[int]) -> list[tuple[str, int, int]]:
        """LOSS_PERCENT of the packets from `silent` to `deaf` are lost."""
        return self._change("lossy", deaf, silent)

    def heal(self, cuts: Iterable[tuple[str, int, int]]) -> None:
        """Undo some cuts. What several asked for is undone with the last of them."""
        with self._lock:
            for cut in cuts:
                self._cuts[cut] -= 1
                if self._cuts[cut] == 0:
                    kind, deaf, silent = cut
                    self._nft(deaf, f"delete element inet cuts {kind} {{ {self.address(silent)} }}")

    def heal_all(self) -> None:
        """Every packet passes."""
        self._cuts.clear()
        for host in [*self.hosts, HERE]:
            self._nft(host, "flush set inet cuts silent; flush set inet cuts lossy;")

    def _change(self, kind: str, deaf: Iterable[int], silent: Iterable[int]) -> list[tuple[str, int, int]]:
        made = []
        sources = list(silent)
        with self._lock:
            for host in deaf:
                cuts = [(kind, host, source) for source in sources if source != host]
                fresh = [self.address(source) for _, _, source in cuts if self._cuts[kind, host, source] == 0]
                self._cuts.update(cuts)
                if fresh:
                    self._nft(host, f"add element inet cuts {kind} {{ {', '.join(fresh)} }}")
                made += cuts
        return made

    def _add(self, host: int) -> None:
        name = f"host{host}"
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", f"port{host}", "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", f"port{host}", "master", "br0", "up")
        _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "eth0", "up")
        self._nft(host, _TABLE)

    def _nft(self, host: int, script: str) -> None:
        _run(*self.enter(host), "nft", script)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
