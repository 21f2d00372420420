"""The process of a node. The order matters: skill processes are forked before gRPC or any thread exists."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

EXIT_BAD_CONFIG = 2


def run(config_paths: Sequence[Path], node_id: str, insecure: bool = False, join: bool = False) -> int:
    """Run a node until it is told to stop. Returns the exit code: 0 stopped, 1 failed after it had started,
    2 cannot start, 4 the cluster refuses this node."""
    gc.disable()  # next to nothing of what is imported is garbage: see start.calm_the_collector
    from coterie.node.config import ConfigError, load_config, node_settings
    from coterie.node.observability import configure, get_logger

    try:
        loaded = load_config(config_paths, os.environ)
        settings = node_settings(loaded.config, node_id, insecure=insecure, join=join)
    except ConfigError as error:
        for problem in error.problems:
            print(f"coterie: {problem}", file=sys.stderr)
        return EXIT_BAD_CONFIG
    configure(settings.log.level, settings.log.format, settings.node_id)
    for warning in loaded.warnings:
        get_logger(__name__).warning("configuration warning", extra={"warning": warning})
    for late in loaded.not_yet:
        get_logger(__name__).warning("configuration key without effect yet", extra={"key": late})
    from coterie.node.start import start

    return start(settings)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m coterie.node.main --config F [--config F ...] --id N`"""
    parser = argparse.ArgumentParser(prog="coterie node start")
    parser.add_argument("--config", action="append", required=True, type=Path)
    parser.add_argument("--id", default="")
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--join", action="store_true")
    options = parser.parse_args(arguments)
    return run(options.config, options.id, options.insecure, options.join)


if __name__ == "__main__":
    sys.exit(main())
