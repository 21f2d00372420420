"""Who belongs to the cluster, as this node's log says; until it says anything, whom the file names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from coterie.core.ports import Member


class Roster:
    """What the transport needs to know of the members. `named` are the other nodes of the file."""

    def __init__(
        self,
        me: str,
        address: str,
        named: Mapping[str, str],
        members: Callable[[], tuple[Member, ...]],
        disk_id: Callable[[], str],
    ) -> None:
        self.me = me
        self._address, self._named = address, dict(named)
        self._members, self._disk_id = members, disk_id

    @property
    def members(self) -> tuple[Member, ...]:
        """The members, this node included; none while it waits to be taken in."""
        return self._members()

    def addresses(self) -> dict[str, tuple[str, ...]]:
        """Every other node and where it may be reached, the likeliest first. The file comes after the log: it
        is older mostly, but newer when a whole cluster has moved."""
        members = self.members
        if not members:
            return {node_id: (address,) for node_id, address in self._named.items()}
        found = {}
        for member in members:
            known = (member.address, self._named.get(member.node_id, ""))
            found[member.node_id] = tuple(dict.fromkeys(address for address in known if address))
        found.pop(self.me, None)
        return {node_id: known for node_id, known in found.items() if known}

    def admits(self, node_id: str) -> bool:
        """Whether that node may call this one. A node that waits to be taken in cannot tell yet, and lets in
        whoever proves to be a node of the same authority."""
        members = self.members
        return not members or any(member.node_id == node_id for member in members)

    def __contains__(self, node_id: object) -> bool:
        """Whether that node may knock: any other one. The engine knows who may come in, by id and disk, and
        while nobody leads it must listen to strangers too, one of whom may lead."""
        return node_id != self.me

    @property
    def settled(self) -> bool:
        """The others know this node's disk and address, so those with larger ids can dial it."""
        me = next((member for member in self.members if member.node_id == self.me), None)
        return me is not None and me.disk_id == self._disk_id() and me.address == self._address
