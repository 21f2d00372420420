"""What no single key of the llm section can say."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from coterie.node.config.findings import Finding
from coterie.node.config.model import ClusterConfig


def unknown_default(config: ClusterConfig) -> Iterator[Finding]:
    """The default must be one of the providers."""
    default, names = config.llm.default, sorted(config.llm.providers)
    if default is not None and default not in names:
        near = difflib.get_close_matches(default, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names) or 'none'}"
        yield Finding(("llm", "default"), f"{default}: no provider has this name; {hint}")
