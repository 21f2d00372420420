"""Circuit breakers for programs without asyncio: the same methods, blocking."""

from __future__ import annotations

from coterie.client import breakers
from coterie.client.sync_queueing import Run


class Breakers:
    """See `coterie.client.breakers.Breakers`."""

    def __init__(self, run: Run, inner: breakers.Breakers) -> None:
        self._run, self._inner = run, inner

    def list(self) -> breakers.BreakerList:
        """See `coterie.client.breakers.Breakers.list`."""
        return self._run(self._inner.list())

    def reset(self, key: str) -> breakers.Breaker:
        """See `coterie.client.breakers.Breakers.reset`."""
        return self._run(self._inner.reset(key))
