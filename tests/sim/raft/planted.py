"""All bugs planted on purpose, to see that the simulator or a test finds each. They are in the tests only.

FAULTS says which of them stand for the faults of stock PySyncObj 0.3.17 that this engine corrects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.sim.raft import planted_clients, planted_log, planted_members, planted_snapshots, planted_votes
from tests.sim.raft.plant import Plant
from tests.sim.raft.run import Report, seeded_size, simulate
from tests.sim.raft.totals import REPEATED

PLANTED: dict[str, Plant] = {
    "": Plant(),
    **planted_clients.PLANTS,
    **planted_log.PLANTS,
    **planted_members.PLANTS,
    **planted_snapshots.PLANTS,
    **planted_votes.PLANTS,
}

# What stock PySyncObj does wrong, and the planted bugs that do the same.
FAULTS: dict[str, tuple[str, ...]] = {
    "1 nothing is ever synced, files have no checksums": (
        "lazy-fsync",
        "ack-before-durable",
        "no-checksum",
        "no-directory-sync",
        "forgotten-vote",
        "early-promise",
        "own-copy-at-once",
        "stale-durability",
        "cut-while-writing",
        "failed-fsync-ignored",
        "cut-at-damage",
    ),
    "2 answers carry no term": (
        "ack-without-term",
        "deaf-to-higher-terms",
    ),
    "3 a follower cuts entries that match": (
        "truncate-matching",
        "cut-below-commit",
    ),
    "4 it streams before the logs match and commits what it never compared": (
        "optimistic-stream",
        "commit-beyond-match",
        "commit-of-old-term",
    ),
    "5 snapshots: damage is swallowed, they go back, chunks mix, compaction is not atomic": (
        "swallowed-damage",
        "snapshot-going-back",
        "mixed-chunks",
        "unchecked-transfer",
        "no-flow-control",
        "compaction-in-place",
        "copy-forgets-what-came",
        "copy-keeps-what-was-cut",
        "cut-before-switch",
        "cut-without-hook",
        "journal-cleared-by-snapshot",
        "log-never-cut",
    ),
    "6 votes: counted twice, no PreVote, no stickiness, no timely check of the quorum": (
        "vote-counted-twice",
        "no-prevote",
        "disloyal-voter",
        "forgetful-voter",
        "no-check-quorum",
        "drained-answers",
        "stale-read",
        "former-question",
        "reads-refused",
    ),
    "7 waiting callbacks leak, and some are told a lie": (
        "callbacks-leak",
        "lying-success",
        "double-answer",
        "false-refusal",
        "reads-never-answered",
        "read-answered-twice",
        "refused-but-appended",
        "transfer-forgotten",
        "transfer-lie",
    ),
    "8 entries are pickles, and so are membership and version commands": ("library-entries",),
    "9 a commit waits for ticks, an idle leader spins": ("ticking", "spinning-leader"),
    "10 a forwarded proposal is lost with its link, or made twice; a bad apply is repeated": (
        "forward-lost",
        "careless-resend",
        "hasty-retry",
        "apply-again",
    ),
    "11 private names of the library may change": ("library-renamed",),
    "12 several membership changes at once, nobody learns first, ids outlive their disks": (
        "changes-at-once",
        "change-before-commit",
        "learner-counts",
        "snapshot-without-members",
        "wiped-disk-votes",
        "begun-again",
        "move-forgotten",
        "refused-but-changed",
        "voter-before-caught-up",
        "removed-disk-let-in",
    ),
}


def simulate_planted(
    sizes: list[int], plant: str, seed: int, trace: Callable[[str], None] | None = None
) -> Report:
    """One run with the planted bug of that name; without one when it is empty."""
    with PLANTED[plant].patched():
        return simulate(seed, seeded_size(seed, sizes), PLANTED[plant].member, trace)


def run_again(report: Report, sizes: list[int], plant: str) -> Report:
    """The report with a violation when the same seed gives another run here: in another process than the
    first one, its sets and its memory have another order."""
    again = simulate_planted(sizes, plant, report.seed)
    if again != report:
        return replace(report, violation=f"one seed, two runs: {report.digest[:16]}, {again.digest[:16]}")
    return replace(report, counts=report.counts | {REPEATED: 1})
