"""Making an authority and certificates: EC P-256, files that only their owner can read."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coterie.node.config.address import check_host, is_loopback
from coterie.node.config.kinds import check_node_id
from coterie.node.config.settings import TlsPaths
from coterie.node.tls.files import CA_CERT, CA_KEY, NODE_URI, USER_URI, TlsError, node_paths, user_paths

AUTHORITY_DAYS: Final = 3_650
CERTIFICATE_DAYS: Final = 730
_SKEW: Final = timedelta(days=1)  # other machines' clocks may be behind
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate that signs others, and its key."""

    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def open_authority(directory: Path, now: datetime | None = None) -> Authority:
    """The authority in `directory`; a new one when there is none. Raises TlsError when it is damaged, or has
    expired."""
    cert_path, key_path = directory / CA_CERT, directory / CA_KEY
    if cert_path.exists() != key_path.exists():
        missing = key_path if cert_path.exists() else cert_path
        raise TlsError(f"{missing}: missing; put it back, or use an empty directory for a new authority")
    if not cert_path.exists():
        return _create_authority(directory)
    try:
        cert = x509.load_pem_x509_certificate(cert_path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise TlsError(
            f"{cert_path}, {key_path}: cannot be read: {error}; restore them from a backup"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or cert.public_key() != key.public_key():
        raise TlsError(f"{key_path}: not the key of {cert_path}; restore the pair from a backup")
    if (now or datetime.now(UTC)) > cert.not_valid_after_utc:
        when = f"{cert.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        text = f"{cert_path}: expired on {when}, and what it signs is accepted nowhere; move it and {CA_KEY}"
        raise TlsError(f"{text} away for a new authority, and make all certificates anew")
    return Authority(cert, key)


def check_names(node_ids: Sequence[str], hosts: Mapping[str, Sequence[str]], user: str) -> None:
    """Raises TlsError when one of them gets no certificate."""
    for node_id in node_ids:
        _names_of(node_id, hosts.get(node_id, ()))
    _check_user(user)


def issue_node(authority: Authority, directory: Path, node_id: str, hosts: Sequence[str]) -> TlsPaths:
    """A certificate that serves and calls, for the node's id, its hosts, and loopback when it is on it."""
    names = _names_of(node_id, hosts)
    if not hosts or any(is_loopback(host) for host in hosts):
        names += _LOOPBACK
    subject = [_general_name(name) for name in dict.fromkeys(names)]
    subject.append(x509.UniformResourceIdentifier(NODE_URI + node_id))
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(authority, node_paths(directory, node_id), node_id, subject, usages)


def issue_user(authority: Authority, directory: Path, name: str) -> TlsPaths:
    """A certificate that only calls."""
    _check_user(name)
    subject: list[x509.GeneralName] = [x509.UniformResourceIdentifier(USER_URI + name)]
    return _issue(authority, user_paths(directory, name), name, subject, [ExtendedKeyUsageOID.CLIENT_AUTH])


def _names_of(node_id: str, hosts: Sequence[str]) -> list[str]:
    try:
        return [check_node_id(node_id), *(check_host(host) for host in hosts)]
    except ValueError as error:
        raise TlsError(f"no certificate for {node_id}: {error}") from error


def _check_user(name: str) -> None:
    if not _USER.fullmatch(name):
        raise TlsError(f"{name!r} is not a user name: letters, digits, and . _ @ - inside, at most 64")


def _create_authority(directory: Path) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"coterie authority {x509.random_serial_number() % 2**32:08x}")
    cert = (
        _builder(name, name, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        text = f"{directory}: cannot be made: {error.strerror}; choose a writable directory"
        raise TlsError(text) from error
    _write(directory / CA_KEY, _key_pem(key))
    _write(directory / CA_CERT, cert.public_bytes(serialization.Encoding.PEM))
    return Authority(cert, key)


def _issue(
    authority: Authority,
    paths: TlsPaths,
    name: str,
    subject: Sequence[x509.GeneralName],
    usages: Sequence[x509.ObjectIdentifier],
) -> TlsPaths:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    cert = (
        _builder(_name(name), authority.cert.subject, key.public_key(), CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(subject), critical=False)
        .add_extension(issuer_key, critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    _write(paths.key, _key_pem(key))
    _write(paths.cert, cert.public_bytes(serialization.Encoding.PEM))
    return paths


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, and never readable by others, not even for a moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise TlsError(f"{path}: cannot be written: {error.strerror}; choose a writable directory") from error
