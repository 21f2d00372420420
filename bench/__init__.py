"""Figures of this machine: throughput, latency, failover, memory, start-up, the engine alone, etcd beside it.

    make bench                              everything
    python -m bench.run --only latency      some of it
    python -m bench.throughput --runs 5     one bench alone

Nothing here judges a figure: a bench fails only when work was lost, doubled or wrong."""
