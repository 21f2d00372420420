"""How a group begins, and what keeps it from beginning twice.

The logs of a new group are all empty, so blank nodes grant votes to blank nodes (membership.py). A majority
of blank nodes beside others that hold data could therefore begin the group anew, and lose what it had: that
is what a majority of lost disks looks like when their nodes are started again as founders. So every node says
over each new link whether it holds something, and whoever has heard that another one does neither stands as a
blank node nor votes for one. It keeps to that until the other comes back empty, or until it is restarted: to
begin anew is the operator's decision.

A blank node also gives the others some time to be heard before it stands: nodes that are started together are
heard at once, one that has a large state to load needs seconds. Nobody waits who is not blank."""

from __future__ import annotations

import logging
from typing import Any

from coterie.raft import membership
from coterie.raft import messages as m
from coterie.raft.journal import FIRST_INDEX
from coterie.raft.seam import Node

logger = logging.getLogger("coterie.raft")
WAIT_TIMEOUTS, WAIT_S_MAX = 10, 20.0  # election timeouts, for those who were not heard of


class SyncObj(membership.SyncObj):
    """Adds: a group begins once."""

    def __init__(self, *args: Any) -> None:
        self._holds: dict[str, bool] = {}  # who has said whether it holds something
        self._told_of: list[str] = []  # because of whom this node has said that it waits
        super().__init__(*args)
        self._begin_at = self._now() + min(WAIT_TIMEOUTS * self._options.election_timeout_s, WAIT_S_MAX)

    def _say_what_it_holds(self, node: Node) -> None:
        self._post(node, m.Greeting(0, not self._is_blank()))

    def _on_greeting(self, node: Node, message: m.Greeting) -> None:
        self._holds[str(node.id)] = message.holds

    def _note_log_of(self, node: Node, last_index: int) -> None:
        if last_index > FIRST_INDEX:
            self._holds[str(node.id)] = True

    def _note_refusal(self, peer: str) -> None:
        """Whatever the reason: it goes by a configuration in its log, or follows a leader. Only a node that
        was given the id of this one refuses without either."""
        if peer != self._options.node_id:
            self._holds[peer] = True

    @property
    def _holders(self) -> list[str]:
        return sorted(peer for peer, holds in self._holds.items() if holds)

    def _may_begin(self) -> bool:
        holders = self._holders
        if holders:
            self._tell_why(holders)
            return False
        return self._now() >= self._begin_at or all(str(node.id) in self._holds for node in self._others)

    def _tell_why(self, holders: list[str]) -> None:
        if holders == self._told_of:
            return
        self._told_of = holders
        logger.error(
            "this node is empty, others hold data of this cluster and no leader comes: nothing is begun "
            "anew. Remedy: bring back the disks of a majority, or restore a backup",
            extra={"peers": holders},
        )

    def _post(self, node: Node, message: m.Message) -> None:
        """Queue a message; it leaves when everything it depends on is durable."""
        raise NotImplementedError
