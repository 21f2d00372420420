"""Checking a set of certificate files before use: gRPC would only say "unavailable" about most mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from coterie.node.config.settings import TlsPaths
from coterie.node.tls.files import NODE_URI, USER_URI, TlsError, TlsMaterial

_FILE_BYTES_MAX: Final = 1024 * 1024
_CHAIN_MAX: Final = 5
_T = TypeVar("_T")


def load(paths: TlsPaths, node_id: str | None, now: datetime) -> TlsMaterial:
    """See `coterie.node.tls.load_tls`."""
    ca_pem, cert_pem, key_pem = (_read(path) for path in (paths.ca, paths.cert, paths.key))
    authorities = _parse(paths.ca, ca_pem, x509.load_pem_x509_certificates, "PEM certificates")
    chain = _parse(paths.cert, cert_pem, x509.load_pem_x509_certificates, "PEM certificates")
    key = _parse(paths.key, key_pem, _load_key, "PEM private key without a password")
    cert = chain[0]
    if cert.public_key() != key.public_key():
        raise TlsError(f"{paths.key}: not the key of {paths.cert}; give the pair that was issued together")
    issuer = _issuer(cert, chain[1:], authorities)
    if issuer is None:
        raise TlsError(
            f"{paths.cert}: not signed by {paths.ca}; give the ca.crt of the authority that issued it"
        )
    _check_time(paths.cert, cert, now)
    _check_time(paths.ca, issuer, now)
    _check_names(paths.cert, cert, node_id)
    expires_at = min(cert.not_valid_after_utc, issuer.not_valid_after_utc)
    return TlsMaterial(ca_pem, cert_pem, key_pem, expires_at)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        text = f"{path}: cannot be read: {error.strerror}; `coterie tls init` makes it"
        raise TlsError(text) from error
    if len(data) > _FILE_BYTES_MAX:
        raise TlsError(f"{path}: larger than {_FILE_BYTES_MAX} bytes; give a PEM file")
    return data


def _parse(path: Path, data: bytes, parse: Callable[[bytes], _T], what: str) -> _T:
    try:
        return parse(data)
    except (ValueError, TypeError) as error:  # TypeError: the key wants a password
        raise TlsError(f"{path}: not a {what}; give the file as it was issued") from error


def _load_key(data: bytes) -> PrivateKeyTypes:
    return serialization.load_pem_private_key(data, None)


def _issuer(
    cert: x509.Certificate, between: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]
) -> x509.Certificate | None:
    """The authority at the end of the chain that begins with `cert`."""
    for _ in range(_CHAIN_MAX):
        for authority in authorities:
            if _signed_by(cert, authority):
                return authority
        above = next((other for other in between if other != cert and _signed_by(cert, other)), None)
        if above is None:
            return None
        cert = above
    return None


def _signed_by(cert: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        cert.verify_directly_issued_by(issuer)
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return constraints.value.ca


def _check_time(path: Path, cert: x509.Certificate, now: datetime) -> None:
    if now > cert.not_valid_after_utc:
        when = cert.not_valid_after_utc
        raise TlsError(
            f"{path}: expired on {when:%Y-%m-%d %H:%M} UTC; make a new one with `coterie tls init`"
        )
    if now < cert.not_valid_before_utc:
        when = cert.not_valid_before_utc
        raise TlsError(f"{path}: not valid before {when:%Y-%m-%d %H:%M} UTC; check this machine's clock")


def _check_names(path: Path, cert: x509.Certificate, node_id: str | None) -> None:
    if node_id is None:
        return
    uris, names = _names(cert)
    if NODE_URI + node_id not in uris:
        owner = ", ".join(uri for uri in uris if uri.startswith((NODE_URI, USER_URI))) or "nobody known here"
        raise TlsError(
            f"{path}: belongs to {owner}, but this is {node_id}; give the certificate issued for {node_id}"
        )
    if node_id not in names:
        raise TlsError(
            f"{path}: lacks the DNS name {node_id}, by which peers check it; make one with `coterie tls init`"
        )


def _names(cert: x509.Certificate) -> tuple[list[str], list[str]]:
    try:
        subject = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return [], []
    uris = subject.get_values_for_type(x509.UniformResourceIdentifier)
    return list(uris), list(subject.get_values_for_type(x509.DNSName))
