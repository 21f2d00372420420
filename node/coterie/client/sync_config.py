"""The configuration of the cluster for programs without asyncio: the same methods, blocking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coterie.client import cluster_config
from coterie.client.sync_queueing import Run


class ClusterConfig:
    """See `coterie.client.cluster_config.ClusterConfig`."""

    def __init__(self, run: Run, inner: cluster_config.ClusterConfig) -> None:
        self._run, self._inner = run, inner

    def get(self, revision: int = 0) -> cluster_config.ConfigRevision:
        """See `coterie.client.cluster_config.ClusterConfig.get`."""
        return self._run(self._inner.get(revision))

    def history(self) -> list[cluster_config.ConfigRevision]:
        """See `coterie.client.cluster_config.ClusterConfig.history`."""
        return self._run(self._inner.history())

    def apply(
        self,
        document: str | Mapping[str, Any],
        *,
        reset: Sequence[str] = (),
        expected_revision: int = 0,
        validate_only: bool = False,
        note: str = "",
        request_id: str = "",
    ) -> cluster_config.AppliedConfig:
        """See `coterie.client.cluster_config.ClusterConfig.apply`."""
        return self._run(
            self._inner.apply(
                document,
                reset=reset,
                expected_revision=expected_revision,
                validate_only=validate_only,
                note=note,
                request_id=request_id,
            )
        )

    def roll_back(
        self,
        revision: int,
        *,
        expected_revision: int = 0,
        validate_only: bool = False,
        note: str = "",
        request_id: str = "",
    ) -> cluster_config.AppliedConfig:
        """See `coterie.client.cluster_config.ClusterConfig.roll_back`."""
        return self._run(
            self._inner.roll_back(
                revision,
                expected_revision=expected_revision,
                validate_only=validate_only,
                note=note,
                request_id=request_id,
            )
        )
