"""S3 by boto3. Repeats are ours: the client makes one attempt."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from coterie.skills import Effect
from coterie.skills.errors import NonRetryable, SkillError, TooLarge
from coterie.skills.object_storage.request import ObjectRequest, Store

LIST_MAX, LIST_DEFAULT = 1_000, 200
MARK = "coterie-effect"  # in an object's metadata: which effect wrote it
_CODES = {
    "NoSuchKey": "NOT_FOUND",
    "NoSuchBucket": "NOT_FOUND",
    "404": "NOT_FOUND",
    "AccessDenied": "NOT_ALLOWED",
}
_CODES |= {"403": "NOT_ALLOWED", "PreconditionFailed": "EXISTS", "412": "EXISTS", "InvalidRange": "BAD_INPUT"}
_PASSING = frozenset({409, 429})
CHANGED = 412


class Refused(NonRetryable):
    """The store refuses; `code` says why."""

    code = "STORE_REFUSED"


class StoreFailed(SkillError):
    """The store does not answer as it should; a later attempt may fare better."""

    code = "STORE_FAILED"


def read(store: Store, request: ObjectRequest) -> dict[str, Any]:
    """list, info, get or link. Blocks. Raises Refused, StoreFailed, TooLarge."""
    return _said(lambda: _READS[request.operation](_client(store), store, request), request)


def change(store: Store, request: ObjectRequest, effect: Effect) -> dict[str, Any]:
    """put, copy or delete; a refusal is an answer, so that it is recorded. Raises StoreFailed."""
    try:
        return _said(lambda: _CHANGES[request.operation](_client(store), store, request, effect), request)
    except (Refused, TooLarge) as error:
        return {"refused": str(error), "code": error.code}


def _client(store: Store) -> Any:
    config = Config(
        connect_timeout=store.timeout_s,
        read_timeout=store.timeout_s,
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path" if store.path_style else "auto"},
        signature_version="s3v4",
    )
    # A session of our own: nothing comes from the environment or from files of the node.
    session = boto3.session.Session(store.access_key, store.secret_key, region_name=store.region)
    return session.client("s3", endpoint_url=store.endpoint or None, config=config)


def _said(work: Callable[[], dict[str, Any]], request: ObjectRequest) -> dict[str, Any]:
    where = f"{request.bucket}/{request.key}"
    try:
        return work()
    except ClientError as error:
        told = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        said = f"{where}: {told.get('Code', status)}: {told.get('Message', '')}"
        changed = status == CHANGED and not request.changes  # between the two calls that read it
        if status >= 500 or status in _PASSING or changed:
            raise StoreFailed(said) from error
        raise Refused(said, code=_CODES.get(str(told.get("Code")), Refused.code)) from error
    except BotoCoreError as error:
        raise StoreFailed(f"{where}: {error}") from error


def _list(client: Any, store: Store, request: ObjectRequest) -> dict[str, Any]:
    limit = min(request.limit or LIST_DEFAULT, LIST_MAX)
    asked = {"Bucket": request.bucket, "Prefix": request.prefix, "MaxKeys": limit}
    found = client.list_objects_v2(**asked, **({"StartAfter": request.after} if request.after else {}))
    objects = [
        {"key": one["Key"], "size": one["Size"], "modified": one["LastModified"].isoformat()}
        for one in found.get("Contents", ())
    ]
    more = {"next_after": objects[-1]["key"]} if found.get("IsTruncated") and objects else {}
    return {"objects": objects, **more}


def _info(client: Any, store: Store, request: ObjectRequest) -> dict[str, Any]:
    found = client.head_object(Bucket=request.bucket, Key=request.key)
    return {
        "bucket": request.bucket,
        "key": request.key,
        "size": found["ContentLength"],
        "media_type": found.get("ContentType", ""),
        "etag": found["ETag"].strip('"'),
        "modified": found["LastModified"].isoformat(),
    }


def _get(client: Any, store: Store, request: ObjectRequest) -> dict[str, Any]:
    facts = _info(client, store, request)
    end = min(request.offset + min(request.limit or store.bytes_max, store.bytes_max), facts["size"])
    data = b""
    if request.offset < end:
        span = f"bytes={request.offset}-{end - 1}"
        # The object of `facts`, and not one that came after it.
        found = client.get_object(Bucket=request.bucket, Key=request.key, Range=span, IfMatch=facts["etag"])
        data = found["Body"].read()
    if request.encoding == "base64":
        content = base64.b64encode(data).decode()
    else:
        try:
            content = data.decode()
        except UnicodeDecodeError as error:
            said = f"{request.bucket}/{request.key}: is not UTF-8 text here; ask with encoding base64"
            raise Refused(said, code="NOT_TEXT") from error
    return {**facts, "content": content, **({"next_offset": end} if end < facts["size"] else {})}


def _link(client: Any, store: Store, request: ObjectRequest) -> dict[str, Any]:
    asked = {"Bucket": request.bucket, "Key": request.key}
    return {"url": client.generate_presigned_url("get_object", Params=asked, ExpiresIn=request.expires_s)}


def _put(client: Any, store: Store, request: ObjectRequest, effect: Effect) -> dict[str, Any]:
    data = _content(store, request)
    mark = hashlib.sha256(effect.key.encode()).hexdigest()
    asked: dict[str, Any] = {
        "Bucket": request.bucket,
        "Key": request.key,
        "Body": data,
        "Metadata": {MARK: mark},
    }
    asked |= {"ContentType": request.media_type} if request.media_type else {}
    asked |= {} if request.overwrite else {"IfNoneMatch": "*"}
    try:
        etag = client.put_object(**asked)["ETag"]
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != "PreconditionFailed" or effect.tries == 1:
            raise
        there = client.head_object(Bucket=request.bucket, Key=request.key)
        if there.get("Metadata", {}).get(MARK) != mark:
            raise
        etag = there["ETag"]  # an earlier attempt wrote it
    return {"bucket": request.bucket, "key": request.key, "bytes": len(data), "etag": etag.strip('"')}


def _copy(client: Any, store: Store, request: ObjectRequest, effect: Effect) -> dict[str, Any]:
    source = {"Bucket": request.bucket, "Key": request.key}
    done = client.copy_object(Bucket=request.to_bucket, Key=request.to_key, CopySource=source)
    etag = done["CopyObjectResult"]["ETag"].strip('"')
    return {"bucket": request.to_bucket, "key": request.to_key, "etag": etag}


def _delete(client: Any, store: Store, request: ObjectRequest, effect: Effect) -> dict[str, Any]:
    client.delete_object(Bucket=request.bucket, Key=request.key)
    return {"bucket": request.bucket, "key": request.key, "deleted": True}


def _content(store: Store, request: ObjectRequest) -> bytes:
    given = request.content or ""
    try:
        data = given.encode() if request.encoding == "utf-8" else base64.b64decode(given, validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise Refused(f"content: not {request.encoding}: {error}", code="BAD_INPUT") from error
    if len(data) > store.bytes_max:
        raise TooLarge(f"content: {len(data)} bytes, the limit is {store.bytes_max}")
    return data


_READS: dict[str, Callable[[Any, Store, ObjectRequest], dict[str, Any]]] = {
    "list": _list,
    "info": _info,
    "get": _get,
    "link": _link,
}
_CHANGES: dict[str, Callable[[Any, Store, ObjectRequest, Effect], dict[str, Any]]] = {
    "put": _put,
    "copy": _copy,
    "delete": _delete,
}
