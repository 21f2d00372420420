"""What `config.yaml`, `tools-config.json` and an entry of `agent-registry.yaml` may say."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from coterie.core.agentstats import HOUR_MS, WINDOW_MAX_MS
from coterie.node.config.read import camel
from coterie.node.units import parse_duration_ms, parse_ratio, parse_size_bytes

AgentId = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
ToolName = Annotated[StrictStr, Field(min_length=1, max_length=128)]
Count = Annotated[StrictInt, Field(ge=1, le=1_000_000_000)]


AVAILABILITY_MAX = 0.99999
SECONDS_MAX = 1e11
_THROUGHPUT = re.compile(
    r"(?P<count>\d{1,7})\s*(req|requests?|runs?)?\s*/\s*(?P<unit>s|sec|second|m|min|minute|h|hour)"
)
_PER_HOUR = {"s": 3_600, "m": 60, "h": 1}


def _duration(value: object) -> object:
    """A number is seconds, as everywhere in these files."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not abs(value) <= SECONDS_MAX:
            raise ValueError(f"{value} is no number of seconds that anything could take")
        return round(value * 1_000)
    return parse_duration_ms(value)


_EFFORTS: dict[object, str] = {
    **dict.fromkeys(("none", "off", False), ""),
    **dict.fromkeys(("low", "minimal", "light"), "low"),
    **dict.fromkeys(("medium", "moderate", True), "medium"),
    **dict.fromkeys(("high", "extended", "deep"), "high"),
}


def _effort(value: object) -> object:
    if not isinstance(value, str | bool) or value not in _EFFORTS:
        raise ValueError(f"{value!r} is no effort; write none, low, moderate or high")
    return _EFFORTS[value]


def _merged(value: object) -> object:
    """Permissions are a map, or a list of maps."""
    if not isinstance(value, list):
        return value
    merged: dict[str, Any] = {}
    for item in value:
        if not isinstance(item, dict):
            raise ValueError("is a list of something else than maps")
        for key, given in item.items():
            if key in merged and merged[key] != given:
                raise ValueError(f"{key} is given twice")
            merged[key] = given
    return merged


def _percent(value: object) -> object:
    return value if isinstance(value, int | float) and not 0 <= value <= 1 else parse_ratio(value)


def _per_hour(value: object) -> object:
    """Runs an hour of `100req/min`."""
    match = _THROUGHPUT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or not int(match["count"]):
        raise ValueError(f"{value!r} is not a throughput: write it like 100req/min or 5/h")
    return int(match["count"]) * _PER_HOUR[match["unit"][0]]


def _cores(value: object) -> object:
    if isinstance(value, str) and value.endswith("m") and value[:-1].isdigit():
        return int(value[:-1]) / 1_000
    return value


Ms = Annotated[int, BeforeValidator(_duration), Field(ge=0)]
Bytes = Annotated[int, BeforeValidator(parse_size_bytes)]
Ratio = Annotated[float, BeforeValidator(_percent), Field(allow_inf_nan=False)]


class Section(BaseModel):
    """A map of the file: snake_case or camelCase, and no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=camel, populate_by_name=True)


class ModelChoice(Section):
    """Which model thinks. `provider` is one of llm.providers; another name falls to llm.default."""

    provider: StrictStr = ""
    name: StrictStr = ""
    version: StrictStr = "latest"
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 4_096
    thinking: Annotated[str, BeforeValidator(_effort)] = ""


class Permissions(Section):
    gpu_access: StrictBool = False
    max_allocation: Annotated[StrictInt, Field(ge=0, le=1_024)] = 0
    file_access: StrictBool = False
    paths: tuple[StrictStr, ...] = ()
    network_access: StrictBool = False
    allowed_endpoints: tuple[StrictStr, ...] = ()


class Retry(Section):
    max_retries: Annotated[StrictInt, Field(ge=0, le=1_000)] = 0
    backoff: Literal["exponential", "fixed"] = "exponential"
    max_backoff: Ms | None = None


class SkillBinding(Section):
    skill_id: Annotated[StrictStr, Field(min_length=1, max_length=128)]
    version: StrictStr = "latest"
    timeout: Ms | None = None
    retry_policy: Retry | None = None


class Storage(Section):
    backend: StrictStr = "replicated"
    connection_string: StrictStr = ""


class Memory(Section):
    type: Literal["persistent", "none"] = "none"
    ttl: Ms = 30 * 24 * 3_600_000
    storage: Storage = Storage()


class RateLimits(Section):
    requests_per_minute: Count | None = None
    tokens_per_day: Count | None = None
    usd_per_day: Annotated[float, Field(gt=0, le=1e9)] | None = None
    concurrent_sessions: Count | None = None


class Monitoring(Section):
    enabled: StrictBool = True
    metrics_enabled: StrictBool = True
    tracing_enabled: StrictBool = False
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Loop(Section):
    """How the agent works: ours. `window` is the model's, in tokens."""

    max_steps: Annotated[StrictInt, Field(ge=1, le=1_000)] = 24
    budget_tokens: Count | None = None
    window: Annotated[StrictInt, Field(ge=1_000, le=10_000_000)] = 100_000
    result_chars: Annotated[StrictInt, Field(ge=100, le=1_000_000)] = 20_000
    parallel: Annotated[StrictInt, Field(ge=1, le=64)] = 8
    stop: tuple[ToolName, ...] = ()
    handoff: tuple[AgentId, ...] = ()
    ask_human: StrictBool = False
    add_nodes: StrictBool = False


class AgentConfig(Section):
    id: AgentId
    name: StrictStr = ""
    description: StrictStr = ""
    version: StrictStr = ""
    aliases: tuple[AgentId, ...] = ()
    capabilities: tuple[StrictStr, ...] = ()
    model: ModelChoice = ModelChoice()
    permissions: Annotated[Permissions, BeforeValidator(_merged)] = Permissions()
    skills: tuple[SkillBinding, ...] = ()
    memory: Memory = Memory()
    rate_limits: RateLimits = RateLimits()
    monitoring: Monitoring = Monitoring()
    loop: Loop = Loop()


OPERATORS_KEYS = frozenset({"command", "args", "env", "url", "headers"})


class McpServer(Section):
    """One of `mcpServers`: what the agent uses of a server that operators have set up under that name."""

    allow: tuple[ToolName, ...] = ("*",)

    @model_validator(mode="before")
    @classmethod
    def _no_programs(cls, given: Any) -> Any:
        """Whoever may apply an agent may not thereby start programs on every node."""
        theirs = sorted(OPERATORS_KEYS & set(given)) if isinstance(given, dict) else []
        if theirs:
            raise ValueError(
                f"{', '.join(theirs)}: operators set servers up, in mcp.servers of the cluster's file; "
                'write {} or {"allow": [...]} here, under the same name'
            )
        return given


class ToolsConfig(Section):
    """Which tools the agent has: globs over their names. What `approve` names waits for a person."""

    allow: tuple[ToolName, ...] = ("*",)
    deny: tuple[ToolName, ...] = ()
    approve: tuple[ToolName, ...] = ()
    mcp_servers: dict[ToolName, McpServer] = Field(default_factory=dict)

    @field_validator("mcp_servers", mode="before")
    @classmethod
    def _names_alone(cls, given: object) -> object:
        """A list of names means all that each server allows."""
        return {str(name): {} for name in given} if isinstance(given, list) else given


class Slo(Section):
    """What is promised of the runs that end within any `window`."""

    availability: Annotated[Ratio, Field(gt=0)] | None = None
    response_time_p99: Annotated[Ms, Field(ge=1)] | None = None
    throughput: Annotated[int, BeforeValidator(_per_hour)] | None = None  # runs an hour
    window: Annotated[Ms, Field(ge=HOUR_MS, le=WINDOW_MAX_MS)] | None = None

    @field_validator("availability")
    @classmethod
    def _leaves_a_budget(cls, share: float | None) -> float | None:
        if share is not None and share > AVAILABILITY_MAX:
            raise ValueError("no run may ever fail then; write at most 99.999%")
        return share


class Amount(Section):
    """`cpu` in cores, or as `500m`."""

    cpu: Annotated[float, BeforeValidator(_cores), Field(gt=0)] | None = None
    memory: Annotated[Bytes, Field(ge=1)] | None = None


class Resources(Section):
    requests: Amount = Amount()
    limits: Amount = Amount()

    @model_validator(mode="after")
    def _in_order(self) -> Resources:
        for name in ("cpu", "memory"):
            wanted, most = getattr(self.requests, name), getattr(self.limits, name)
            if wanted is not None and most is not None and wanted > most:
                raise ValueError(f"requests.{name} {wanted:g} is above limits.{name} {most:g}")
        return self


class Autoscaling(Section):
    enabled: StrictBool = False
    min_replicas: Count = 1
    max_replicas: Count = 1
    target_cpu_utilization: Annotated[Ratio, Field(ge=0.01)] | None = None
    target_memory_utilization: Annotated[Ratio, Field(ge=0.01)] | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Autoscaling:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self


class RegistryEntry(Section):
    """An entry of agent-registry.yaml."""

    id: AgentId
    name: StrictStr = ""
    status: Literal["active", "paused"] = "active"
    version: StrictStr = ""
    replicas: Count = 1
    domains: tuple[StrictStr, ...] = ()
    slo: Slo = Slo()
    resources: Resources = Resources()
    autoscaling: Autoscaling = Autoscaling()
