"""What can be wrong with a blob, or with storing it."""

from __future__ import annotations


class BlobError(Exception):
    """A blob could not be stored or read; the text says why."""


class BlobNameInvalid(BlobError):
    """Not a SHA-256 in 64 lower-case hexadecimal digits."""


class BlobNotFound(BlobError):
    """This node does not have the blob."""


class BlobTooLarge(BlobError):
    """The blob is above the limit for one blob."""


class BlobQuotaExceeded(BlobError):
    """The blobs of this node would take more than their quota."""


class BlobDiskFull(BlobQuotaExceeded):
    """The disk of this node has no room, whatever the quota says."""


class BlobMismatch(BlobError):
    """The bytes received are not those that were announced."""


class BlobDamaged(BlobError):
    """The bytes on the disk are not what was stored. The file was moved aside: the blob can be put again."""


class BlobStorageFailed(BlobError):
    """The disk refused, for another reason than being full."""


def too_much(size: int) -> BlobMismatch:
    return BlobMismatch(f"more bytes came than the {size} announced in size_bytes")


def check_content(seen: int, size: int, found: str, sha256: str) -> None:
    """Whether what came is what was announced. Raises BlobMismatch."""
    if seen != size:
        raise BlobMismatch(f"{seen} bytes came, {size} were announced in size_bytes")
    if found != sha256:
        raise BlobMismatch(f"the bytes have the hash {found}, announced was {sha256}")
