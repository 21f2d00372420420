"""Mail and webhooks. What is known of a failure decides what comes of the effect.

`Refused` is an answer: it was not sent, and will not be. `NotDone` is raised where it was not sent and may be
tried again. Any other error leaves it unknown."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import smtplib
import ssl
import time
from email.errors import MessageError
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, getaddresses, parseaddr
from typing import Any
from urllib.parse import urlsplit

from coterie.skills import Effect, NotDone, SkillError
from coterie.skills.communication.request import Message, Smtp, Webhook
from coterie.skills.errors import BadInput, NonRetryable
from coterie.skills.outbound import EVERYWHERE, BadHeader, Request, Unreachable, Way, send, target_of

MESSAGE_ID_HOST = "coterie"
BUSY = frozenset({429, 503})


class Refused(NonRetryable):
    """The message was not sent, and cannot be."""

    code = "NOT_SENT"


class Unknown(SkillError):
    """Nobody knows whether the message was sent."""

    code = "SENT_UNKNOWN"


def send_mail(channel: Smtp, message: Message, effect: Effect) -> dict[str, Any]:
    """One mail to all receivers. Its Message-ID is the same however often it is sent."""
    mail = _mail(channel, message, effect)
    try:
        server = _open(channel)
    except (OSError, smtplib.SMTPException) as error:
        raise _not_sent(channel, error) from error
    except UnicodeError:
        raise Refused(f"{channel.host}: user and password of the channel must be ASCII") from None
    try:
        return _hand_over(server, channel, mail, message.to)
    finally:
        with contextlib.suppress(OSError, smtplib.SMTPException):  # whatever it says now, that is known
            server.quit()
        server.close()


def body_of(message: Message) -> bytes:
    """What a webhook gets. Raises BadInput."""
    try:
        return json.dumps(_content(message), ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadInput(f"data: cannot be written as JSON: {said}") from error


def post(channel: Webhook, body: bytes, effect: Effect) -> dict[str, Any]:
    """One POST with the key of the effect as Idempotency-Key, signed where there is a secret."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": effect.key, **channel.headers}
    if channel.secret:
        stamp = str(int(time.time()))
        signed = hmac.new(channel.secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
        headers |= {"X-Coterie-Timestamp": stamp, "X-Coterie-Signature": f"sha256={signed}"}
    try:
        host, way = _way(channel)
        answer = send(way, Request("POST", channel.url, headers, body))
    except Unreachable as error:
        raise Unknown(str(error)) if error.sent else NotDone(str(error)) from error
    except BadHeader as error:
        raise Refused(f"headers of the channel: {error}") from error
    except NonRetryable:  # its words may show the address, which may be a secret
        said = "url of the channel: is none that can be asked; write https://host/path, without a password"
        raise Refused(said) from None
    if answer.status in BUSY:
        raise NotDone(f"{host} answers {answer.status}")
    if answer.status >= 500:
        raise Unknown(f"{host} answers {answer.status}")
    if answer.status >= 300:
        raise Refused(f"{host} answers {answer.status}: {answer.body[:200].decode('utf-8', 'replace')}")
    return {"status": answer.status}


def _mail(channel: Smtp, message: Message, effect: Effect) -> EmailMessage:
    mail = EmailMessage(policy=SMTP.clone(cte_type="7bit"))
    digest = hashlib.sha256(effect.key.encode()).hexdigest()[:32]
    try:
        mail["From"], mail["To"], mail["Subject"] = channel.sender, ", ".join(message.to), message.subject
        mail["Date"], mail["Message-ID"] = formatdate(), f"<{digest}@{MESSAGE_ID_HOST}>"
        mail.set_content(message.text)
        if message.html:
            mail.add_alternative(message.html, subtype="html")
    except (ValueError, MessageError) as error:
        raise Refused(f"the mail cannot be written: {error}", code="BAD_INPUT") from error
    return mail


def is_address(text: str) -> bool:
    """Whether it is one mail address without a name."""
    found = getaddresses([text])
    name, address = found[0] if len(found) == 1 else ("", "")
    local, _, host = address.rpartition("@")
    return address == text and not name and bool(local and host) and " " not in text and text.isascii()


def _open(channel: Smtp) -> smtplib.SMTP:
    trusted = ssl.create_default_context(cafile=str(channel.ca_file) if channel.ca_file else None)
    if channel.security == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(
            channel.host, channel.port, timeout=channel.timeout_s, context=trusted
        )
    else:
        server = smtplib.SMTP(channel.host, channel.port, timeout=channel.timeout_s)
    try:
        if channel.security == "starttls":
            server.starttls(context=trusted)
        if channel.user:
            server.login(channel.user, channel.password)
    except BaseException:
        server.close()
        raise
    return server


def _hand_over(
    server: smtplib.SMTP, channel: Smtp, mail: EmailMessage, to: tuple[str, ...]
) -> dict[str, Any]:
    try:
        sender = parseaddr(channel.sender)[1] or channel.sender
        refused = server.send_message(mail, from_addr=sender, to_addrs=list(to))
    except smtplib.SMTPRecipientsRefused as error:
        told = {who: _said(code, text) for who, (code, text) in error.recipients.items()}
        if all(400 <= code < 500 for code, _ in error.recipients.values()):
            raise NotDone(f"{channel.host} takes mail for none of them now: {told}") from error
        raise Refused(f"{channel.host} takes mail for none of them: {told}") from error
    except (smtplib.SMTPResponseException, smtplib.SMTPNotSupportedError) as error:
        raise _not_sent(channel, error) from error
    except (OSError, smtplib.SMTPException) as error:
        raise Unknown(f"{channel.host}: {error}") from error
    accepted = [one for one in to if one not in refused]
    answer = {"accepted": accepted, "message_id": str(mail["Message-ID"])}
    told = {who: _said(code, text) for who, (code, text) in refused.items()}
    return {**answer, "refused_receivers": told} if told else answer


def _not_sent(channel: Smtp, error: OSError | smtplib.SMTPException) -> SkillError:
    """Before the content is handed over, or refused in the server's own words, nothing was sent."""
    if isinstance(error, smtplib.SMTPResponseException):
        said = f"{channel.host}: {_said(error.smtp_code, error.smtp_error)}"
        return NotDone(said) if 400 <= error.smtp_code < 500 else Refused(said)
    if isinstance(error, ssl.SSLCertVerificationError | smtplib.SMTPNotSupportedError):
        return Refused(f"{channel.host}: {error}")
    return NotDone(f"{channel.host}: {error}")


def _said(code: int, text: bytes | str) -> str:
    return f"{code} {text.decode('utf-8', 'replace') if isinstance(text, bytes) else text}"


def _content(message: Message) -> Any:
    if message.data is not None:
        return message.data
    return {"subject": message.subject, "text": message.text} if message.subject else {"text": message.text}


def _way(channel: Webhook) -> tuple[str, Way]:
    # The operator wrote this address: it may be inside, and no answer leads away from it.
    way = Way(
        hosts=(target_of(channel.url),),
        inside=EVERYWHERE,
        timeout_s=channel.timeout_s,
        redirects_max=0,
        ca_file=str(channel.ca_file or ""),
    )
    return urlsplit(channel.url).hostname or "", way
