"""The command `coterie`. It comes with every installation, also with one that is for client programs only."""

from __future__ import annotations

import importlib.util
import sys

EXIT_USAGE = 2
# Of what the extra `node` brings; where one is missing the others are, too. Looked for, not imported: see
# tests/cli/test_lazy.py.
NEEDS = ("click", "rich", "yaml", "pydantic")


def main() -> int:
    """Run the command; without the libraries of a node, say how to get them. Returns the exit code."""
    missing = [name for name in NEEDS if not _is_there(name)]
    if missing:
        print(
            f"coterie: this installation is for client programs (missing: {', '.join(missing)}). "
            "The command, and nodes, need more: pip install 'coterie[node]'",
            file=sys.stderr,
        )
        return EXIT_USAGE
    from coterie.node.cli.main import main as run

    return run()


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # loaded by hand, or put out of reach
        return sys.modules.get(name) is not None
