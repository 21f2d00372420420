"""The entry point `coterie`: which commands there are. Each is imported when it is called."""

from __future__ import annotations

from coterie.node.cli.framework import Entry, LazyGroup, RootGroup

_AT = "coterie.node.cli"
_EXIT_CODES = (
    "Exit codes: 0 done, 1 the task failed, 2 wrong usage or input, 3 unavailable or no quorum, "
    "4 refused, 5 timeout, 70 a defect, 130 interrupted, "
    "141 nobody reads the output."
)

_TASK = LazyGroup(
    "task",
    help="One task.",
    entries={
        "show": Entry(f"{_AT}.tasks:show", "Show a task, its steps and its result."),
        "wait": Entry(f"{_AT}.tasks:wait", "Wait for a task and print its result."),
        "watch": Entry(f"{_AT}.tasks:watch", "Print the events of a task until it ends."),
        "cancel": Entry(f"{_AT}.tasks:cancel", "Ask for a task to be cancelled."),
        "pause": Entry(f"{_AT}.control:pause", "Stop a task where it is."),
        "resume": Entry(f"{_AT}.control:resume", "Let a paused task go on."),
        "signal": Entry(f"{_AT}.control:signal", "Tell a task something."),
        "retry": Entry(f"{_AT}.control:retry", "Run a task now, or once more."),
        "doubts": Entry(f"{_AT}.decisions:doubts", "List steps of which nobody knows the outcome."),
        "resolve": Entry(f"{_AT}.decisions:resolve", "Decide about a step in doubt."),
    },
)
_WORKFLOW = LazyGroup(
    "workflow",
    help="Workflows: plans of many tasks.",
    entries={
        "plan": Entry(f"{_AT}.workflow:plan", "Show how a file would run, or what is wrong with it."),
        "route": Entry(f"{_AT}.goal:route", "Show which routing rule a request falls under."),
        "mend": Entry(
            f"{_AT}.goal:mend", "Have wrong dependencies corrected by a model, and run it.", "Runs"
        ),
        "run": Entry(f"{_AT}.runs:run", "Run a file, and show how it goes.", "Runs"),
        "list": Entry(f"{_AT}.runs:list_runs", "List runs, newest first.", "Runs"),
        "show": Entry(f"{_AT}.runs:show", "Show a run with its nodes.", "Runs"),
        "watch": Entry(f"{_AT}.runs:watch", "Show how a run goes until it ends.", "Runs"),
        "approve": Entry(f"{_AT}.runs:approve", "Answer an approval of a run.", "Runs"),
        "pause": Entry(f"{_AT}.control:pause", "Begin no more nodes of a run.", "Runs"),
        "resume": Entry(f"{_AT}.control:resume", "Let a paused run go on.", "Runs"),
        "cancel": Entry(f"{_AT}.tasks:cancel", "End a run and its tasks.", "Runs"),
        "retry": Entry(f"{_AT}.runs:retry", "Run an ended run again from where it failed.", "Runs"),
        "apply": Entry(f"{_AT}.kept_workflows:apply", "Keep a file under a name.", "Kept"),
        "kept": Entry(f"{_AT}.kept_workflows:kept", "List what is kept, or show one.", "Kept"),
        "rm": Entry(f"{_AT}.kept_workflows:remove", "Keep one no longer.", "Kept"),
    },
)
_SCHEDULE = LazyGroup(
    "schedule",
    help="Tasks by the clock.",
    entries={
        "add": Entry(f"{_AT}.schedules:add", "Make a schedule, or change it."),
        "list": Entry(f"{_AT}.schedules:list_schedules", "List the schedules."),
        "show": Entry(f"{_AT}.schedules:show", "Show one, and when it fires next."),
        "pause": Entry(f"{_AT}.schedules:pause", "Stop firing one."),
        "resume": Entry(f"{_AT}.schedules:resume", "Let one fire again."),
        "trigger": Entry(f"{_AT}.schedules:trigger", "Run one now."),
        "backfill": Entry(f"{_AT}.schedules:backfill", "Run one for times of the past."),
        "rm": Entry(f"{_AT}.schedules:remove", "Forget one."),
    },
)
_LOCK = LazyGroup(
    "lock",
    help="Locks with leases and fencing tokens.",
    entries={
        "list": Entry(f"{_AT}.sharing:list_locks", "List who holds what, and who waits."),
        "get": Entry(f"{_AT}.sharing:acquire", "Take a lock."),
        "release": Entry(f"{_AT}.sharing:release", "Let go of one."),
    },
)
_KV = LazyGroup(
    "kv",
    help="Small values under keys.",
    entries={
        "get": Entry(f"{_AT}.sharing:get", "Print a value."),
        "put": Entry(f"{_AT}.sharing:put", "Set a value."),
        "rm": Entry(f"{_AT}.sharing:delete", "Remove a key."),
        "list": Entry(f"{_AT}.sharing:list_keys", "List keys."),
        "watch": Entry(f"{_AT}.sharing:watch", "Print each change."),
    },
)
_BUS = LazyGroup(
    "bus",
    help="Topics with a history.",
    entries={
        "pub": Entry(f"{_AT}.sharing:pub", "Publish a message."),
        "sub": Entry(f"{_AT}.sharing:sub", "Print messages."),
        "topics": Entry(f"{_AT}.sharing:topics", "List topics and groups."),
        "keep": Entry(f"{_AT}.sharing:keep", "Set how much of a topic is kept."),
    },
)
_DLQ = LazyGroup(
    "dlq",
    help="Dead letters: the tasks the cluster has given up.",
    entries={
        "list": Entry(f"{_AT}.dead_letters:list_letters", "List them, newest first."),
        "show": Entry(f"{_AT}.dead_letters:show", "Show one, with its steps and where it crashed."),
        "replay": Entry(f"{_AT}.dead_letters:replay", "Run one again as a new task."),
        "purge": Entry(f"{_AT}.dead_letters:purge", "Throw some away."),
    },
)
_LIMITS = LazyGroup(
    "limits",
    help="What may run at once, or start per time, in the whole cluster.",
    entries={
        "set": Entry(f"{_AT}.limits:set_limit", "Set a limit."),
        "list": Entry(f"{_AT}.limits:list_limits", "List the limits."),
        "rm": Entry(f"{_AT}.limits:remove", "Lift a limit."),
    },
)
_TENANTS = LazyGroup(
    "tenants",
    help="What each tenant may have of the cluster.",
    entries={
        "set": Entry(f"{_AT}.limits:set_tenant", "Set a tenant's share and how many tasks may wait."),
        "list": Entry(f"{_AT}.limits:list_tenants", "List the tenants for which something is set."),
    },
)
_BUDGETS = LazyGroup(
    "budgets",
    help="What language models may cost.",
    entries={
        "set": Entry(f"{_AT}.usage:set_budget", "Set a budget."),
        "list": Entry(f"{_AT}.usage:list_budgets", "List the budgets and what is spent."),
        "rm": Entry(f"{_AT}.usage:remove", "Lift a budget."),
    },
)
_AGENTS = LazyGroup(
    "agents",
    help="Agents: who thinks with which model and which tools.",
    entries={
        "apply": Entry(f"{_AT}.agents:apply", "Make files what new runs of an agent get."),
        "list": Entry(f"{_AT}.agents:list_agents", "List the agents."),
        "show": Entry(f"{_AT}.agents:show", "Show an agent and its files."),
        "status": Entry(f"{_AT}.agent_status:status", "How the runs of agents went; objectives, advice."),
        "match": Entry(f"{_AT}.goal:match", "Show which agent would get a piece of work, and why."),
        "rollback": Entry(f"{_AT}.agents:rollback", "End a canary, or go back."),
        "rm": Entry(f"{_AT}.agents:remove", "Forget an agent."),
    },
)
_BACKUP = LazyGroup(
    "backup",
    help="Backups: the whole cluster in one file, and a new cluster made of it.",
    entries={
        "create": Entry(f"{_AT}.backup:create", "Write a backup, while everything goes on."),
        "verify": Entry(f"{_AT}.backup:verify", "Check every byte of one; needs no cluster."),
        "restore": Entry(f"{_AT}.backup:restore", "Make the data directories of a new cluster of one."),
    },
)
_BREAKERS = LazyGroup(
    "breakers",
    help="Circuit breakers: what keeps work away from what fails.",
    entries={
        "list": Entry(f"{_AT}.breakers:list_breakers", "List those that have been open."),
        "reset": Entry(f"{_AT}.breakers:reset", "Close one now."),
    },
)
_APPROVALS = LazyGroup(
    "approvals",
    help="Calls that tasks may only make when people have approved them.",
    entries={
        "list": Entry(f"{_AT}.decisions:list_approvals", "List what tasks ask."),
        "approve": Entry(f"{_AT}.decisions:approve", "Approve one call."),
        "reject": Entry(f"{_AT}.decisions:reject", "Reject one call."),
    },
)
_SKILLS = LazyGroup(
    "skills",
    help="Skills that are published to the cluster.",
    entries={
        "validate": Entry(f"{_AT}.skills:validate", "Check a skill's folder strictly; needs no cluster."),
        "publish": Entry(f"{_AT}.skills:publish", "Bring a skill's folder to the cluster, in quarantine."),
        "list": Entry(f"{_AT}.skills:list_skills", "List the published skills."),
        "show": Entry(f"{_AT}.skills:show", "Show one with its revisions."),
        "approve": Entry(f"{_AT}.skills:approve", "Approve a revision, and make it live."),
        "canary": Entry(f"{_AT}.skills:canary", "Give a revision a share of the new tasks."),
        "rollback": Entry(f"{_AT}.skills:rollback", "End a canary, or go back to what was live."),
        "revoke": Entry(f"{_AT}.skills:revoke", "Never run a revision again."),
        "rm": Entry(f"{_AT}.skills:remove", "Forget a revision, or a skill."),
        "apply": Entry(f"{_AT}.skills:apply_registry", "Take over a skill-registry.yaml."),
    },
)
_NODE = LazyGroup(
    "node",
    help="One node.",
    entries={
        "start": Entry(f"{_AT}.node:start", "Run a node in this process."),
        "list": Entry(f"{_AT}.members:list_members", "List the nodes and who of them votes."),
        "add": Entry(f"{_AT}.members:add", "Make a node a member of the cluster."),
        "remove": Entry(f"{_AT}.members:remove", "Drain a node and take it out for good."),
        "promote": Entry(f"{_AT}.members:promote", "Let a runner vote."),
        "move": Entry(f"{_AT}.members:move", "Tell the others a node's new address."),
        "resync": Entry(f"{_AT}.members:resync", "Let a node fetch all its data anew."),
        "drain": Entry(f"{_AT}.cluster:drain", "Empty a node before maintenance."),
        "undrain": Entry(f"{_AT}.cluster:undrain", "Let a drained node take work again."),
    },
)
_LEADER = LazyGroup(
    "leader",
    help="The leader of the cluster.",
    entries={"transfer": Entry(f"{_AT}.cluster:transfer", "Move leadership to another node.")},
)
_TOKEN = LazyGroup(
    "token",
    help="Tokens: what callers without a certificate of their own prove themselves with.",
    entries={
        "create": Entry(f"{_AT}.security:create", "Make a token; it is shown once."),
        "list": Entry(f"{_AT}.security:list_tokens", "List the tokens, without their secrets."),
        "revoke": Entry(f"{_AT}.security:revoke", "End a token."),
        "bootstrap": Entry(f"{_AT}.bootstrap:bootstrap", "Make the first admin token, on a node's host."),
    },
)
_USER = LazyGroup(
    "user",
    help="Users: the holders of certificates.",
    entries={
        "set": Entry(f"{_AT}.security:set_user", "Say what a user may do."),
        "list": Entry(f"{_AT}.security:list_users", "List the users."),
        "rm": Entry(f"{_AT}.security:remove_user", "Take everything from a user."),
    },
)
_AUDIT = LazyGroup(
    "audit",
    help="Who changed what.",
    entries={
        "export": Entry(f"{_AT}.audit:export", "Write the audit log to a file."),
        "verify": Entry(f"{_AT}.audit:verify", "Check that nothing of it was changed."),
    },
)
_TLS = LazyGroup(
    "tls",
    help="Certificates.",
    entries={"init": Entry(f"{_AT}.tls:init", "Make an authority and certificates.")},
)
_CONFIG = LazyGroup(
    "config",
    help="Configuration files.",
    entries={
        "validate": Entry(f"{_AT}.config:validate", "Check cluster files: errors, warnings, notes."),
        "show": Entry(f"{_AT}.agreed:show", "Show what the cluster has agreed on."),
        "diff": Entry(f"{_AT}.agreed:diff", "Say what applying files would change."),
        "apply": Entry(f"{_AT}.agreed:apply", "Change limits, queue, routing, breakers while nodes run."),
        "history": Entry(f"{_AT}.agreed:history", "List the revisions: who, when, why."),
        "rollback": Entry(f"{_AT}.agreed:rollback", "Put an earlier revision in force again."),
    },
)

_WORK, _RUN, _SETUP = "Work", "Cluster", "Set-up"
cli = RootGroup(
    "coterie",
    help="A peer cluster of identical agent nodes: submit tasks to any node, kill any node.",
    epilog=_EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    entries={
        "submit": Entry(f"{_AT}.submit:submit", "Submit a task, or a goal in words.", _WORK),
        "map-reduce": Entry(f"{_AT}.map_reduce:map_reduce", "One skill over many documents.", _WORK),
        "tasks": Entry(f"{_AT}.tasks:tasks", "List tasks, newest first.", _WORK),
        "task": Entry(f"{_AT}.main:_TASK", "Show, follow, pause, signal, retry or cancel one task.", _WORK),
        "workflow": Entry(f"{_AT}.main:_WORKFLOW", "Workflows: plan, run, show, retry, keep.", _WORK),
        "schedule": Entry(f"{_AT}.main:_SCHEDULE", "Tasks by the clock.", _WORK),
        "lock": Entry(f"{_AT}.main:_LOCK", "Locks: list, get, release.", _WORK),
        "kv": Entry(f"{_AT}.main:_KV", "Small values under keys.", _WORK),
        "bus": Entry(f"{_AT}.main:_BUS", "Topics: pub, sub, keep.", _WORK),
        "agents": Entry(
            f"{_AT}.main:_AGENTS", "Agents: apply, list, show, status, match, rollback, rm.", _WORK
        ),
        "dlq": Entry(f"{_AT}.main:_DLQ", "Dead letters: list, show, replay, purge.", _WORK),
        "approvals": Entry(f"{_AT}.main:_APPROVALS", "Approvals: list, approve, reject.", _WORK),
        "limits": Entry(f"{_AT}.main:_LIMITS", "Limits on the whole cluster.", _RUN),
        "budgets": Entry(f"{_AT}.main:_BUDGETS", "What language models may cost.", _RUN),
        "usage": Entry(f"{_AT}.usage:usage", "What language models have cost.", _RUN),
        "skills": Entry(f"{_AT}.main:_SKILLS", "Skills: validate, publish, approve, canary.", _RUN),
        "breakers": Entry(f"{_AT}.main:_BREAKERS", "Circuit breakers: list, reset.", _RUN),
        "tenants": Entry(f"{_AT}.main:_TENANTS", "Shares and queues of tenants.", _RUN),
        "token": Entry(f"{_AT}.main:_TOKEN", "Make, list and revoke tokens.", _RUN),
        "user": Entry(f"{_AT}.main:_USER", "What the holders of certificates may do.", _RUN),
        "audit": Entry(f"{_AT}.main:_AUDIT", "Who changed what: export, verify.", _RUN),
        "backup": Entry(f"{_AT}.main:_BACKUP", "Backups: create, verify, restore.", _RUN),
        "whoami": Entry(f"{_AT}.security:whoami", "Whom the cluster takes you for.", _RUN),
        "why": Entry(f"{_AT}.why:why", "Why a task does not run.", _WORK),
        "history": Entry(f"{_AT}.history:history", "What happened to a task or a run.", _WORK),
        "story": Entry(f"{_AT}.history:story", "The same in plain sentences.", _WORK),
        "fork": Entry(f"{_AT}.history:fork", "Go on from a point of a run, with other values.", _WORK),
        "replay": Entry(f"{_AT}.history:replay", "Step through a run, and check its history.", _WORK),
        "state": Entry(f"{_AT}.state_at:state_at", "The cluster or a task at an earlier index.", _WORK),
        "status": Entry(f"{_AT}.cluster:status", "The cluster: leader, nodes, queue.", _RUN),
        "nodes": Entry(f"{_AT}.cluster:nodes", "List the nodes.", _RUN),
        "drain": Entry(f"{_AT}.cluster:drain", "Empty a node before maintenance.", _RUN),
        "undrain": Entry(f"{_AT}.cluster:undrain", "Let a drained node take work again.", _RUN),
        "leader": Entry(f"{_AT}.main:_LEADER", "Move leadership.", _RUN),
        "dev": Entry(f"{_AT}.dev:dev", "Run a cluster on this machine, in this terminal.", _SETUP),
        "node": Entry(f"{_AT}.main:_NODE", "Run, add, remove, drain or resync one node.", _SETUP),
        "tls": Entry(f"{_AT}.main:_TLS", "Make certificates.", _SETUP),
        "config": Entry(
            f"{_AT}.main:_CONFIG", "Check cluster files; change what the cluster agreed on.", _SETUP
        ),
        "version": Entry(f"{_AT}.version:version", "Print the version.", _SETUP),
    },
)


def main() -> int:
    """Run the program with the arguments of this process. Returns the exit code."""
    return cli.main(standalone_mode=False)
