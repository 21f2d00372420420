"""Whom the command line calls: by options, else the environment, else the `coterie dev` of this place."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from coterie.node.cli.failures import EXIT_USAGE, CommandFailed, Failure, bad_input
from coterie.node.cli.text import one_line

if TYPE_CHECKING:
    from coterie.client.cluster import Cluster
    from coterie.node.cli.options import GlobalOptions

ENDPOINT: Final = "COTERIE_ENDPOINT"
TLS_DIR: Final = "COTERIE_TLS_DIR"
TOKEN: Final = "COTERIE_TOKEN"
TENANT: Final = "COTERIE_TENANT"
DEFAULT_TENANT: Final = "default"
TOKEN_PREFIX: Final = "cot_"
TLS_FILES: Final[Mapping[str, str]] = {
    "tls_ca": "COTERIE_TLS_CA",
    "tls_cert": "COTERIE_TLS_CERT",
    "tls_key": "COTERIE_TLS_KEY",
}
DEV_DIR: Final = ".coterie-dev"
DEV_ENV: Final = "env"
CALL_S: Final = 30.0
ATTEMPT_S: Final = 5.0
_CA, _ADMIN = "ca.crt", "user.admin"
_ENV_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for the client."""

    ca: str
    cert: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """The nodes to call. `call_s` bounds a call; `wait_s`, when it was asked for, everything that waits."""

    endpoints: str
    tls: TlsFiles | None
    insecure: bool
    call_s: float = CALL_S
    wait_s: float | None = None
    token: str = field(default="", repr=False)
    tenant: str = DEFAULT_TENANT
    discover: bool = True  # call other nodes of the cluster too


def resolve_target(options: GlobalOptions, environ: Mapping[str, str], directory: Path) -> Target:
    """The target for these global options. Raises CommandFailed naming what is missing or contradicts."""
    if options.timeout is not None and options.timeout <= 0:
        raise bad_input("--timeout", f"{options.timeout:g} leaves no time; give more than 0, such as 30s")
    dev = read_dev_env(directory / DEV_DIR / DEV_ENV)
    endpoints = options.endpoint or environ.get(ENDPOINT, "")
    tls = _tls(options, environ)
    if dev is not None and (not endpoints or set(_split(endpoints)) <= set(_split(dev.get(ENDPOINT, "")))):
        endpoints = endpoints or dev.get(ENDPOINT, "")
        if tls is None and not options.insecure and TLS_DIR in dev:
            tls = tls_files_in(dev[TLS_DIR])
    if not endpoints:
        text = f"no node is known; give --endpoint HOST:PORT, set {ENDPOINT}, or run `coterie dev` here"
        raise CommandFailed(
            Failure(EXIT_USAGE, "INVALID_ARGUMENT", text, "NO_ENDPOINT", (("endpoint", text),))
        )
    token = _token(options, environ, secure=tls is not None)
    tenant = options.tenant or environ.get(TENANT) or DEFAULT_TENANT
    call_s, discover = options.timeout or CALL_S, not _is_of_one_node(token)
    return Target(endpoints, tls, options.insecure, call_s, options.timeout, token, tenant, discover)


def _is_of_one_node(token: str) -> bool:
    """Whether it is a bootstrap token: other nodes of the cluster refuse it."""
    if not token:
        return False
    from coterie.node.security.tokens import BOOTSTRAP, parse

    parsed = parse(token)
    return parsed is not None and parsed.token_id == BOOTSTRAP


def _token(options: GlobalOptions, environ: Mapping[str, str], *, secure: bool) -> str:
    """The token to send; one from the environment is meant for calls over TLS only."""
    given, inherited = options.token, environ.get(TOKEN, "")
    if given and not secure:
        raise bad_input("--token", "is never sent in plain text; give --tls-dir or --tls-ca too")
    if not given and inherited.startswith(TOKEN_PREFIX):
        return inherited if secure else ""
    if not given and (not inherited or not secure):
        return ""
    from coterie.node.config.secret_files import SecretFileError, read_secret

    try:
        return read_secret(Path(given or inherited))
    except SecretFileError as error:
        raise bad_input("--token" if given else TOKEN, str(error)) from error


def tls_files_in(directory: str) -> TlsFiles:
    """The authority and a user's certificate in a directory of `coterie tls init` or `coterie dev`."""
    place = Path(directory)
    if not (place / _CA).is_file():
        raise bad_input(
            "--tls-dir", f"{directory}: holds no {_CA}; `coterie tls init --out {directory}` makes it"
        )
    users = sorted(path.stem for path in place.glob("user.*.crt"))
    user = _ADMIN if _ADMIN in users or not users else users[0]
    if len(users) > 1 and user != _ADMIN:
        names = ", ".join(f"{name}.crt" for name in users)
        raise bad_input(
            "--tls-dir", f"{directory}: holds {names}; choose with --tls-ca, --tls-cert and --tls-key"
        )
    cert, key = place / f"{user}.crt", place / f"{user}.key"
    for path in (cert, key):
        if not path.is_file():
            raise bad_input("--tls-dir", f"{directory}: holds no {path.name}; `coterie tls init` makes it")
    return TlsFiles(str(place / _CA), str(cert), str(key))


def read_dev_env(path: Path) -> dict[str, str] | None:
    """The variables in a file of `export NAME=value` lines; None when there is no such file. Raises
    CommandFailed for a line that no shell would take."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = file.read(_ENV_BYTES_MAX).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    found = {}
    for line in lines:
        try:
            words = shlex.split(line, comments=True) if line.startswith("export ") else []
        except ValueError as error:
            text = f"{path}: {one_line(line)!r} cannot be read ({error}); `coterie dev` makes it anew"
            raise bad_input("--endpoint", text) from error
        for word in words[1:]:
            name, _, value = word.partition("=")
            found[name] = value
    return found


def cluster_for(target: Target) -> Cluster:
    """A client for the target. Imports gRPC."""
    # The command line says in its own words what went wrong; the library's lines would stand between them.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if target.insecure:
        # The client library reads the same variables; --insecure overrules them.
        for name in TLS_FILES.values():
            os.environ.pop(name, None)
    from coterie.client import TLS, Cluster, Timeouts

    _check_plain_text(target)
    tls = TLS(target.tls.ca, target.tls.cert, target.tls.key) if target.tls else None
    timeouts = Timeouts(call=target.call_s, attempt=min(ATTEMPT_S, target.call_s))
    return Cluster(
        target.endpoints,
        tls=tls,
        insecure=target.insecure,
        tenant=target.tenant,
        auto_discovery=target.discover,
        token=target.token,
        timeouts=timeouts,
    )


def _check_plain_text(target: Target) -> None:
    from coterie.client.settings import is_loopback, split_endpoints

    far = [address for address in split_endpoints(target.endpoints)[0] if not is_loopback(address)]
    if far and target.tls is None and not target.insecure:
        remedy = "give --tls-dir or --tls-ca, or --insecure when the network in between is trusted"
        raise bad_input("--endpoint", f"plain text to {', '.join(far)} is refused; {remedy}")


def _tls(options: GlobalOptions, environ: Mapping[str, str]) -> TlsFiles | None:
    given = {name: str(getattr(options, name)) for name in TLS_FILES if getattr(options, name)}
    if options.insecure:
        if given or options.tls_dir:
            raise bad_input("--insecure", "contradicts --tls-…; give one of them")
        return None
    if given or options.tls_dir:
        return _files(options.tls_dir, given)
    inherited = {name: environ[variable] for name, variable in TLS_FILES.items() if environ.get(variable)}
    directory = environ.get(TLS_DIR, "")
    return _files(directory, inherited) if inherited or directory else None


def _files(directory: str, given: Mapping[str, str]) -> TlsFiles:
    if directory and not given:
        return tls_files_in(directory)
    base = tls_files_in(directory) if directory else None
    ca = given.get("tls_ca") or (base.ca if base else "")
    if not ca:
        raise bad_input("--tls-ca", "is missing; give the ca.crt of the authority that signed the nodes")
    cert, key = given.get("tls_cert"), given.get("tls_key")
    if (cert is None) != (key is None):
        absent = "--tls-key" if key is None else "--tls-cert"
        raise bad_input(absent, "is missing; a certificate and its key go together")
    return TlsFiles(ca, cert or (base.cert if base else None), key or (base.key if base else None))


def _split(endpoints: str) -> list[str]:
    return [part.strip() for part in endpoints.split(",") if part.strip()]
