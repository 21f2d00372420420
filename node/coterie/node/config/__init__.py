"""Configuration: the only reader of configuration files and environment variables.

    loaded = load_config([Path("cluster-config")], os.environ)
    settings = node_settings(loaded.config, "node-01")

Several files may be given, or directories of them; later ones overlay earlier ones. Relative paths in a file
are taken from the directory of that file. All problems are reported at once."""

from __future__ import annotations

from coterie.node.config.dev import dev_config, dump_config, free_ports
from coterie.node.config.findings import ConfigError
from coterie.node.config.llm_settings import LlmSettings, ProviderSettings
from coterie.node.config.loading import LoadedConfig, load_config
from coterie.node.config.mcp_settings import McpServerSettings
from coterie.node.config.model import ClusterConfig
from coterie.node.config.read import ENVIRONMENT
from coterie.node.config.resolve import node_settings
from coterie.node.config.settings import (
    BreakerSettings,
    DiskSettings,
    HealthSettings,
    KeepSettings,
    Limits,
    LogSettings,
    MembershipSettings,
    NodeSettings,
    QueueSettings,
    RebalanceSettings,
    TlsPaths,
)

__all__ = [
    "ENVIRONMENT",
    "BreakerSettings",
    "ClusterConfig",
    "ConfigError",
    "DiskSettings",
    "HealthSettings",
    "KeepSettings",
    "Limits",
    "LlmSettings",
    "LoadedConfig",
    "LogSettings",
    "McpServerSettings",
    "MembershipSettings",
    "NodeSettings",
    "ProviderSettings",
    "QueueSettings",
    "RebalanceSettings",
    "TlsPaths",
    "dev_config",
    "dump_config",
    "free_ports",
    "load_config",
    "node_settings",
]
