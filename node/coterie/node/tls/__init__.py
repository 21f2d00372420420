"""Certificates of a cluster: making them, and checking a set of files before a node or client uses it.

One authority per cluster. A node's certificate says coterie://node/<id>, a person's or program's says
coterie://user/<name>; the node's id is also its DNS name, so a peer is checked by id wherever it runs.
`cryptography` is imported when it is needed, because that takes a while."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from coterie.node.config.settings import TlsPaths
from coterie.node.tls.files import CA_CERT as CA_CERT
from coterie.node.tls.files import CA_KEY as CA_KEY
from coterie.node.tls.files import NODE_URI as NODE_URI
from coterie.node.tls.files import USER_URI as USER_URI
from coterie.node.tls.files import TlsError as TlsError
from coterie.node.tls.files import TlsMaterial as TlsMaterial
from coterie.node.tls.files import node_paths as node_paths
from coterie.node.tls.files import user_paths as user_paths


def init_tls(
    directory: Path,
    node_ids: Sequence[str],
    hosts: Sequence[str] | Mapping[str, Sequence[str]] = (),
    user: str = "admin",
) -> TlsPaths:
    """An authority, a certificate for each node and one for `user`, whose files are returned.

    hosts: names and addresses at which the nodes are dialled, for all of them or by node id. An authority
    that is already in `directory` is used again; certificates are made anew. Raises TlsError; for a name
    that cannot be, before anything is written."""
    from coterie.node.tls import issue as tls_issue

    by_node = hosts if isinstance(hosts, Mapping) else dict.fromkeys(node_ids, hosts)
    tls_issue.check_names(node_ids, by_node, user)
    authority = tls_issue.open_authority(directory)
    for node_id in node_ids:
        tls_issue.issue_node(authority, directory, node_id, by_node.get(node_id, ()))
    return tls_issue.issue_user(authority, directory, user)


def issue_node(directory: Path, node_id: str, hosts: Sequence[str] = ()) -> TlsPaths:
    """A certificate for one node, by the authority in `directory`, which is made when there is none."""
    from coterie.node.tls import issue as tls_issue

    return tls_issue.issue_node(tls_issue.open_authority(directory), directory, node_id, hosts)


def issue_user(directory: Path, name: str) -> TlsPaths:
    """A certificate for a person or program, by the authority in `directory`, made when there is none."""
    from coterie.node.tls import issue as tls_issue

    return tls_issue.issue_user(tls_issue.open_authority(directory), directory, name)


def load_tls(paths: TlsPaths, node_id: str | None = None, now: datetime | None = None) -> TlsMaterial:
    """Read the three files and check that they fit together, are valid now, and belong to `node_id`.

    node_id: None for a client. Raises TlsError for the first thing that is wrong."""
    from coterie.node.tls import check as tls_check

    return tls_check.load(paths, node_id, now or datetime.now(UTC))
