"""The settings of this node under the configuration that the cluster has agreed on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from coterie.core.cluster_config import newest
from coterie.core.nouns import Policy
from coterie.core.state import ClusterState
from coterie.node.config import ConfigError, NodeSettings
from coterie.node.config.replicated import effective
from coterie.node.observability import get_logger

log = get_logger(__name__)


class LiveSettings:
    """What the node's file says until the cluster has a configuration; from then on, both together."""

    def __init__(self, own: NodeSettings, state: Callable[[], ClusterState]) -> None:
        self._own, self._state = own, state
        self._revision, self._now = 0, own

    def __call__(self) -> NodeSettings:
        """Worked out anew when the revision has changed."""
        number = self._state().meta.config_revision
        if number != self._revision:
            self._revision = number
            self._take()
        return self._now

    def _take(self) -> None:
        last = newest(self._state())
        if last is None:
            self._now = self._own
            return
        document = json.loads(last.document)
        try:
            self._now = effective(self._own, document)
        except ConfigError as error:
            log.error(
                "the cluster's configuration is not understood by this version; the one before it goes on",
                extra={"revision": last.revision, "problems": list(error.problems)},
            )
            return
        differs = differing(json.loads(self._own.replicated), document)
        log.info("configuration in force", extra={"revision": last.revision, "by": last.by})
        if differs:
            log.warning(
                "this node's file says otherwise than the cluster, which goes by `coterie config apply`",
                extra={"keys": differs},
            )


def differing(mine: dict[str, object], agreed: dict[str, object]) -> list[str]:
    """The keys that a file gives and for which the cluster has another value."""
    return sorted(key for key, value in mine.items() if agreed.get(key) != value)


def policy_of(settings: NodeSettings, document: Mapping[str, object]) -> Policy:
    """What the document means for outcomes. Raises ConfigError."""
    return effective(settings, document).policy
