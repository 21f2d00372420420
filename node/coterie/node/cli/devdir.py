"""The directory of `coterie dev`: one cluster at a time, the same ports again, an env file while it runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from coterie.node.cli.connect import DEV_ENV, ENDPOINT, TLS_DIR
from coterie.node.cli.failures import bad_input

_LOCK: Final = "lock"
_CLUSTER_FILE: Final = "cluster.yaml"
_FOLDERS: Final = ("data", "tls")
_LOOPBACK: Final = "127.0.0.1"
_PORT_MAX: Final = 65_535


@contextlib.contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Hold the directory. Raises CommandFailed when another `coterie dev` does."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / _LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read(20).strip() or "unknown"
            text = f"{directory}: another `coterie dev` runs there (process {owner})"
            raise bad_input("--dir", f"{text}; stop it, or give another directory") from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def forget(directory: Path) -> None:
    """Remove what an earlier cluster left: its data, logs, certificates and cluster file, nothing else.
    Raises CommandFailed where folders of these names are there and no such cluster was."""
    held = [name for name in _FOLDERS if (directory / name).exists()]
    if held and not (directory / _CLUSTER_FILE).exists():
        text = f"{directory} holds {' and '.join(held)}, and no {_CLUSTER_FILE} of an earlier `coterie dev`"
        raise bad_input("--fresh", f"{text}; delete what is to go by hand, or give another --dir")
    for name in _FOLDERS:
        shutil.rmtree(directory / name, ignore_errors=True)
    for path in (directory / _CLUSTER_FILE, *directory.glob("node-*.log")):
        path.unlink(missing_ok=True)


def choose_ports(directory: Path, nodes: int, first: int | None) -> list[int]:
    """A port for each node: from `first` on, else those of last time while they are free, else none chosen.

    Raises CommandFailed when a port is taken, or when the directory holds a cluster of another size."""
    before = _ports_before(directory)
    if before and len(before) != nodes:
        text = f"{nodes}: {directory} holds a cluster of {len(before)} nodes"
        raise bad_input(
            "--nodes", f"{text}; give --nodes {len(before)}, --fresh to forget it, or another --dir"
        )
    if first is None:
        return before if all(map(is_free, before)) else []
    if first + nodes - 1 > _PORT_MAX:
        raise bad_input("--port", f"{first}: there are no {nodes} ports from there on; give a lower one")
    ports = list(range(first, first + nodes))
    taken = [port for port in ports if not is_free(port)]
    if taken:
        text = f"{taken[0]} is in use on {_LOOPBACK}"
        raise bad_input("--port", f"{text}; give another one, or none for free ports")
    return ports


def is_free(port: int) -> bool:
    """Whether nobody listens on this port of the loopback now."""
    with socket.socket() as probe:
        # As a server does it: connections that have just been closed do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, port))
        except OSError:
            return False
    return True


def write_env(directory: Path, endpoints: str, tls_dir: Path | None) -> Path:
    """The env file: to be sourced by a shell, and read by `coterie` in the directory above."""
    variables = {ENDPOINT: endpoints} | ({TLS_DIR: str(tls_dir)} if tls_dir else {})
    path = directory / DEV_ENV
    text = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    # Whole or not at all: other commands read it while this one starts.
    beside = directory / f".{DEV_ENV}.{os.getpid()}"
    beside.write_text(text, encoding="utf-8")
    return beside.replace(path)


def remove_env(directory: Path) -> None:
    """Nobody is to be sent to nodes that are gone."""
    (directory / DEV_ENV).unlink(missing_ok=True)


def _ports_before(directory: Path) -> list[int]:
    import yaml

    try:
        document: Any = yaml.safe_load((directory / _CLUSTER_FILE).read_text(encoding="utf-8"))
        entries: Sequence[Any] = document["cluster"]["nodes"]
        return [int(entry["port"]) for entry in entries]
    except FileNotFoundError:
        return []
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        text = f"{directory}: {_CLUSTER_FILE} cannot be read ({type(error).__name__})"
        raise bad_input("--dir", f"{text}; --fresh starts anew, or give another directory") from error
