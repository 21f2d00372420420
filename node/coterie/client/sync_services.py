"""The services of a cluster beside its tasks, one blocking attribute each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from coterie.client import cluster as asynchronous
from coterie.client import job
from coterie.client.sync_agents import Agents
from coterie.client.sync_breakers import Breakers
from coterie.client.sync_config import ClusterConfig
from coterie.client.sync_coordination import Bus, Each, Keys, Locks, Schedules
from coterie.client.sync_debugger import Debugger
from coterie.client.sync_decisions import Approvals, Effects
from coterie.client.sync_goals import Goals
from coterie.client.sync_queueing import DeadLetters, Limits, Run
from coterie.client.sync_security import Audit, Security
from coterie.client.sync_skills import Skills
from coterie.client.sync_usage import Usage
from coterie.client.sync_workflows import Workflows

if TYPE_CHECKING:
    from coterie.client.sync_job import Job


class Services:
    """What `coterie.client.sync.Cluster` has beside tasks and nodes."""

    def __init__(
        self, run: Run, each: Each, wrap: Callable[[job.Job], Job], cluster: asynchronous.Cluster
    ) -> None:
        self.dead_letters = DeadLetters(run, each, wrap, cluster.dead_letters)
        """See `coterie.client.Cluster.dead_letters`."""
        self.limits = Limits(run, cluster.limits)
        """See `coterie.client.Cluster.limits`."""
        self.usage = Usage(run, cluster.usage)
        """See `coterie.client.Cluster.usage`."""
        self.workflows = Workflows(run, cluster.workflows, wrap)
        """See `coterie.client.Cluster.workflows`."""
        self.debugger = Debugger(run, cluster.debugger, wrap)
        """See `coterie.client.Cluster.debugger`."""
        self.goals = Goals(run, cluster.goals, wrap)
        """See `coterie.client.Cluster.goals`."""
        self.skills = Skills(run, cluster.skills)
        """See `coterie.client.Cluster.skills`."""
        self.agents = Agents(run, cluster.agents)
        """See `coterie.client.Cluster.agents`."""
        self.breakers = Breakers(run, cluster.breakers)
        """See `coterie.client.Cluster.breakers`."""
        self.approvals = Approvals(run, cluster.approvals)
        """See `coterie.client.Cluster.approvals`."""
        self.effects = Effects(run, cluster.effects)
        """See `coterie.client.Cluster.effects`."""
        self.security = Security(run, cluster.security)
        """See `coterie.client.Cluster.security`."""
        self.schedules = Schedules(run, wrap, cluster.schedules)
        """See `coterie.client.Cluster.schedules`."""
        self.locks = Locks(run, cluster.locks)
        """See `coterie.client.Cluster.locks`."""
        self.kv = Keys(run, each, cluster.kv)
        """See `coterie.client.Cluster.kv`."""
        self.bus = Bus(run, each, cluster.bus)
        """See `coterie.client.Cluster.bus`."""
        self.config = ClusterConfig(run, cluster.config)
        """See `coterie.client.Cluster.config`."""
        self.audit = Audit(run, each, cluster.audit)
        """See `coterie.client.Cluster.audit`."""
