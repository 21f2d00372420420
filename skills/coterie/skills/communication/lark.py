"""Feishu and Lark by their own SDK. A message carries the key of its effect: the service sends it once."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import requests
from lark_oapi import Client, LogLevel
from lark_oapi.api.im.v1 import CreateMessageRequest, CreateMessageRequestBody
from lark_oapi.core.exception import ObtainAccessTokenException

from coterie.skills import Effect, NotDone
from coterie.skills.communication.request import Feishu, Message
from coterie.skills.communication.sending import Refused, Unknown

BUSY = frozenset({11232, 11233, 99991400, 230020})  # "too many requests", in the service's own codes
KEY_CHARS = 50  # the service's limit


def send_feishu(channel: Feishu, message: Message, effect: Effect) -> dict[str, Any]:
    """One text message. Raises Refused, NotDone, Unknown."""
    text = f"{message.subject}\n{message.text}" if message.subject else message.text
    body = (
        CreateMessageRequestBody.builder()
        .receive_id(message.to[0])
        .msg_type("text")
        .content(json.dumps({"text": text}, ensure_ascii=False))
        .uuid(hashlib.sha256(effect.key.encode()).hexdigest()[:KEY_CHARS])
        .build()
    )
    asked = CreateMessageRequest.builder().receive_id_type(channel.receive_id_type).request_body(body).build()
    try:
        answer = _client(channel).im.v1.message.create(asked)
    except ObtainAccessTokenException as error:
        raise Refused(f"{channel.domain} gives no token; look at appId and appSecret: {error}") from error
    except requests.ConnectionError as error:
        raise _lost(channel, error) from error
    except (requests.RequestException, ValueError) as error:
        raise Unknown(f"{channel.domain}: {error}") from error
    if answer.success():
        return {"message_id": answer.data.message_id}
    said = f"{channel.domain} answers {answer.code}: {answer.msg}"
    raise NotDone(said) if answer.code in BUSY else Refused(said)


def _client(channel: Feishu) -> Client:
    return (
        Client.builder()
        .app_id(channel.app_id)
        .app_secret(channel.app_secret)
        .domain(channel.domain)
        .timeout(channel.timeout_s)
        .log_level(LogLevel.ERROR)
        .build()
    )


def _lost(channel: Feishu, error: requests.ConnectionError) -> NotDone | Unknown:
    """A connection that was never made carried nothing."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    refused = type(reason).__name__ in ("NewConnectionError", "ConnectTimeoutError", "NameResolutionError")
    return NotDone(f"{channel.domain}: {error}") if refused else Unknown(f"{channel.domain}: {error}")
