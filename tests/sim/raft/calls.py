"""What is asked of a node, and noted together with what it is told."""

from __future__ import annotations

from coterie.core.ports import Committed, MembershipChange, NotCommitted
from coterie.raft.errors import TransferFailed
from tests.sim.raft.checks import Asked, Book, Call, HandOver, Read, Violation, Wish
from tests.sim.raft.links import Links
from tests.sim.raft.node import SimNode


class Calls(Links):
    """The part of the world between nodes and those who use them."""

    book: Book

    def propose(self, node_id: str, body: bytes, timeout_s: float, *, vital: bool = False) -> Asked | None:
        node = self.nodes[node_id]
        if not node.is_awake:
            return None
        asked = Asked(node_id, body)

        def done(answer: Committed | Exception) -> None:
            self.say(node_id, "answers", body[:12].hex(), answer)
            self.book.answered(asked, answer)

        try:
            node.member.propose(body, timeout_s, done, vital=vital)
        except NotCommitted as refusal:
            self.say(node_id, "refuses", body[:12].hex(), refusal)
            self.book.refused(asked, refusal)
            return None
        self.say(node_id, "is asked to append", body[:12].hex())
        self.book.asked.append(asked)
        self._note(node, asked)
        return asked

    def read(self, node_id: str, timeout_s: float) -> Read | None:
        node = self.nodes[node_id]
        if not node.is_awake:
            return None
        read = Read(node_id, self.book.acked_index)
        try:
            node.member.read(timeout_s, lambda answer: self.book.has_read(read, answer))
        except NotCommitted:
            self.book.refused_reads += 1
            return None
        self.book.others.append(read)
        self._note(node, read)
        return read

    def transfer(self, node_id: str, target: str, timeout_s: float) -> None:
        node = self.nodes[node_id]
        if not node.is_awake:
            return
        member = node.member
        call = HandOver(node_id, target, member.leader, node.clock.monotonic() + timeout_s)

        def done(answer: str | Exception) -> None:
            self.say(node_id, "was to hand over to", target or "another", answer)
            self.book.handed_over(call, answer, member.term)
            voters = member._configuration.voters
            is_possible = target in ("", *voters) and len(voters) > 1
            if isinstance(answer, TransferFailed) and is_possible and node.clock.monotonic() < call.until_s:
                raise Violation(f"given up before its time: {call}")

        member.transfer(target, timeout_s, done)
        self.book.others.append(call)
        self._note(node, call)

    def change(
        self, node_id: str, change: MembershipChange, timeout_s: float, *, beside: bool = False
    ) -> Wish:
        """The node is awake. What it says is for the operator to judge."""
        node, wish = self.nodes[node_id], Wish(node_id, change, beside)
        node.member.change(change, timeout_s, lambda answer: self.book.changed(wish, answer))
        self.book.others.append(wish)
        self._note(node, wish)
        return wish

    def _note(self, node: SimNode, call: Call) -> None:
        """Whoever is asked now is not waited for any more when it dies."""
        node.asked.append(call)
        self._kick(node)
