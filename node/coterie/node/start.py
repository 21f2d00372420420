"""Starting a node from its settings: checks, skill processes, then everything else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from coterie.node.config import ConfigError, NodeSettings
from coterie.node.observability import get_logger
from coterie.node.resync import RAFT_DIR
from coterie.node.skillhost import SkillHost, SkillHostError, SkillHostOptions
from coterie.node.skillhost.nouns import SandboxOptions
from coterie.node.skillhost.scratch import clear_scratch, scratch_name
from coterie.node.tls import TlsMaterial, load_tls
from coterie.raft.disk import RealDisk
from coterie.raft.errors import WrongDataDir
from coterie.skills import limits as skill_limits
from coterie.skills.registry import SHIPPED_DIR

if TYPE_CHECKING:
    from coterie.node.app import NodeApp

log = get_logger(__name__)

ENDS_SOON = timedelta(days=30)
FATAL_GRACE_S = 0.4
REFUSED_GRACE_S = 5.0
OPEN_FILES_MAX = 1 << 20
EXIT_OK, EXIT_FAILED, EXIT_BAD_CONFIG, EXIT_REFUSED = 0, 1, 2, 4


def start(settings: NodeSettings) -> int:
    """Run the node; one clear line and exit code 2 for everything that keeps it from starting."""
    try:
        tls = load_tls(settings.tls, settings.node_id) if settings.tls else None
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        settings.data_dir.chmod(0o700)
    except ConfigError as error:
        return _cannot_start("; ".join(error.problems))
    except OSError as error:
        return _cannot_start(
            f"data directory {settings.data_dir}: {error.strerror}; choose another storage.dir"
        )
    if tls is not None and tls.expires_at - datetime.now(UTC) < ENDS_SOON:
        fields = {"ends": f"{tls.expires_at:%Y-%m-%d %H:%M} UTC"}
        log.warning("the certificate ends soon: make a new one and restart this node", extra=fields)
    disk = RealDisk(settings.data_dir / RAFT_DIR)
    try:
        disk.lock()  # before anything in the directory is touched, until nothing of it is open any more
        clear_scratch(scratch_name(settings.node_id, settings.data_dir))
        host = SkillHost.spawn(_host_options(settings))  # before gRPC, uvloop and threads
        allow_many_open_files()  # for this process, not for those of skills
        return _run(settings, tls, host, disk)
    except (WrongDataDir, SkillHostError) as error:
        return _cannot_start(str(error))
    finally:
        disk.close()


def _run(settings: NodeSettings, tls: TlsMaterial | None, host: SkillHost, disk: RealDisk) -> int:
    import uvloop

    from coterie.node.app import NodeFailed, NodeRefused
    from coterie.node.blob_errors import BlobError
    from coterie.node.httpd import HttpListenError
    from coterie.node.ledger import LedgerError
    from coterie.node.resync import resync_hint
    from coterie.node.server import PortInUse
    from coterie.raft.errors import DamagedFile, FatalRaftError, RemovedFromCluster

    calm_the_collector()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, tls, host, disk))
    except NodeFailed as error:
        print(f"coterie: {error}", file=sys.stderr)
        return EXIT_FAILED
    except (NodeRefused, RemovedFromCluster) as error:
        print(f"coterie: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except DamagedFile as error:
        return _cannot_start(f"{error}. Or let it fetch everything anew: {resync_hint(settings.node_id)}")
    except (PortInUse, HttpListenError, LedgerError, BlobError, SkillHostError, FatalRaftError) as error:
        return _cannot_start(str(error))
    return EXIT_OK


def allow_many_open_files() -> None:
    """As many as the system lets this process have: each connection and each file of the log needs one, and
    the soft limit is made for programs that need few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # another kernel's own limit is lower
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def calm_the_collector() -> None:
    """What is loaded by now lives as long as the process; the rest is freed by reference counts mostly. Full
    collections of a large replicated state would only pause the loop."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 3, 10_000)
    gc.enable()


async def _serve(settings: NodeSettings, tls: TlsMaterial | None, host: SkillHost, disk: RealDisk) -> None:
    from coterie.node.app import NodeApp

    app: NodeApp = NodeApp(settings, tls, host, disk)
    app.last_resort = _exit_soon
    await app.run()


def _exit_soon(error: Exception) -> None:
    """A node whose log cannot be trusted has said why; tidying up must not keep it alive. One that is
    refused has more time for it, and not for ever either."""
    from coterie.node.app import NodeRefused
    from coterie.raft.errors import RemovedFromCluster

    refused = isinstance(error, NodeRefused | RemovedFromCluster)
    grace_s, code = (REFUSED_GRACE_S, EXIT_REFUSED) if refused else (FATAL_GRACE_S, EXIT_FAILED)
    timer = threading.Timer(grace_s, _end, (error, code))
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError:  # no more threads for this process: nobody would end it later
        _end(error, code)


def _end(error: Exception, code: int) -> None:
    print(f"coterie: {error}", file=sys.stderr, flush=True)
    os._exit(code)


def _cannot_start(reason: str) -> int:
    print(f"coterie: {reason}", file=sys.stderr)
    return EXIT_BAD_CONFIG


def _host_options(settings: NodeSettings) -> SkillHostOptions:
    shipped = SHIPPED_DIR
    limits = settings.limits
    return SkillHostOptions(
        skill_dirs=(shipped, *settings.skill_dirs),
        max_children=settings.capacity,
        limits=skill_limits.Limits(
            result_bytes_max=limits.result_max,
            step_bytes_max=limits.step_result_max,
            checkpoint_bytes_max=limits.checkpoint_max,
        ),
        node_id=settings.node_id,
        sandbox=SandboxOptions(
            scratch_name=scratch_name(settings.node_id, settings.data_dir),
            inside_networks=settings.skill_networks,
        ),
        settings=settings.skill_settings,
        confined_settings=settings.confined_settings,
    )
