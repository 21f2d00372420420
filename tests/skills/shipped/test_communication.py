"""Messages to real servers: each once, and where that is not known, as was said beforehand."""

from __future__ import annotations

import hashlib
import hmac
import json
from email import message_from_string
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from tests.skills.shipped.mailserver import MailServer, mail_server
from tests.skills.shipped.support import Journal, attempt, hide, refusal, value
from tests.skills.shipped.test_web_fetch import certificates
from tests.skills.shipped.webserver import Reply, WebServer

pytestmark = pytest.mark.timeout(240)  # the SDK of Feishu takes seconds of processor time to load

SKILL = "communication"
MAIL = {"channel": "mail", "to": ["ann@example.org"], "subject": "Größe", "text": "Hello,\n日本"}
HOOK = {"channel": "hook", "text": "done", "subject": "s"}
TEAM = {"channel": "team", "to": ["oc_1"], "text": "done"}


def channels(**one: dict[str, Any]) -> dict[str, Any]:
    return {"channels": one}


def by_mail(server: MailServer, **more: Any) -> dict[str, Any]:
    fields = {"kind": "smtp", "host": "127.0.0.1", "port": server.port, "security": "none", "timeoutS": 5}
    return channels(mail={**fields, "sender": "bot@example.org", "allowTo": ["*@example.org"], **more})


def by_hook(web: WebServer, **more: Any) -> dict[str, Any]:
    return channels(hook={"kind": "webhook", "url": web.url + "/hook", "timeoutS": 2, **more})


def by_feishu(web: WebServer) -> dict[str, Any]:
    team = {"kind": "feishu", "appId": f"app-{web.port}", "appSecret": "s3", "domain": web.url, "timeoutS": 5}
    return channels(team={**team, "allowTo": ["oc_*"]})


def replying(content: Any, status: int = 200) -> Any:
    return lambda asked: Reply(json.dumps(content).encode(), status, {"Content-Type": "application/json"})


async def test_a_mail_is_sent_with_all_its_parts() -> None:
    with mail_server() as server:
        given = {**MAIL, "html": "<b>Hello</b>"}
        done = await value(SKILL, given, by_mail(server, user="me", password="pw"))
        ((receivers, text),) = server.mails
        mail = message_from_string(text, policy=default)
        plain, html = mail.iter_parts()
        assert (mail["From"], mail["Subject"], receivers) == ("bot@example.org", "Größe", ["ann@example.org"])
        assert (plain.get_content().strip(), html.get_content().strip()) == ("Hello,\r\n日本", "<b>Hello</b>")
        assert (done["message_id"], done["accepted"]) == (mail["Message-ID"], ["ann@example.org"])
        assert text.isascii(), "no server needs to take more"
        assert server.logins == ["me pw"]


async def test_mail_goes_encrypted_to_who_proves_its_name(tmp_path: Path) -> None:
    ca, context = certificates(tmp_path)
    with mail_server(context) as server:
        trusted = by_mail(server, security="starttls", caFile=str(ca))
        await value(SKILL, MAIL, trusted)
        assert server.was_secure and len(server.mails) == 1
        server.was_secure = False
        outcome = await refusal(SKILL, MAIL, by_mail(server, security="starttls"))
        assert "certificate verify failed" in outcome.message and len(server.mails) == 1
    with mail_server() as plain:
        outcome = await refusal(SKILL, MAIL, by_mail(plain, security="starttls"))
        assert "STARTTLS" in outcome.message and plain.mails == []


async def test_receivers_that_are_refused_are_told() -> None:
    with mail_server() as server:
        server.replies["RCPT"] = "550 nobody of this name"
        both = {**MAIL, "to": ["ann@example.org", "bad@example.org"]}
        done = await value(SKILL, both, by_mail(server))
        assert done["accepted"] == ["ann@example.org"]
        assert done["refused_receivers"] == {"bad@example.org": "550 nobody of this name"}
        outcome = await refusal(SKILL, {**MAIL, "to": ["bad@example.org"]}, by_mail(server))
        assert (outcome.code, len(server.mails)) == ("NOT_SENT", 1)


@pytest.mark.parametrize(
    ("replies", "code", "retryable", "in_doubt"),
    [
        ({"AUTH": "535 wrong"}, "NOT_SENT", False, False),
        ({"AUTH": "454 later"}, "NOT_DONE", True, False),
        ({"MAIL": "550 not you"}, "NOT_SENT", False, False),
        ({"DATA": "451 later"}, "NOT_DONE", True, False),
        ({"END": "554 spam"}, "NOT_SENT", False, False),
        ({"END": "451 later"}, "NOT_DONE", True, False),
        ({"END": "hang up"}, "SENT_UNKNOWN", True, True),
    ],
)
async def test_what_is_known_of_a_mail_that_failed(
    replies: dict[str, str], code: str, retryable: bool, in_doubt: bool
) -> None:
    with mail_server() as server:
        server.replies = replies
        journal = Journal()
        outcome = await attempt(SKILL, MAIL, by_mail(server, user="me", password="secret-pw"), journal)
        assert (outcome.code, outcome.retryable) == (code, retryable)
        assert ("send" in journal.begun and "send" not in journal.steps) == in_doubt
        assert "secret-pw" not in outcome.message + outcome.traceback


@pytest.mark.parametrize("bye", ["250 whatever", "421 too busy to say it"])
async def test_a_mail_that_was_taken_is_sent_however_the_server_says_goodbye(bye: str) -> None:
    with mail_server() as server:
        server.replies = {"QUIT": bye}
        journal = Journal()
        await value(SKILL, MAIL, by_mail(server), journal=journal)
        assert (len(server.mails), "send" in journal.steps) == (1, True)
        server.replies["END"] = "451 later"
        assert (await attempt(SKILL, MAIL, by_mail(server))).code == "NOT_DONE"


async def test_the_name_of_a_sender_may_be_any() -> None:
    with mail_server() as server:
        await value(SKILL, MAIL, by_mail(server, sender="Büro <bot@example.org>"))
        mail = message_from_string(server.mails[0][1], policy=default)
        assert mail["From"].addresses[0].display_name == "Büro"
        outcome = await refusal(SKILL, MAIL, by_mail(server, user="me", password="größe"))
        assert (outcome.code, "ASCII" in outcome.message) == ("NOT_SENT", True)
        assert "größe" not in outcome.message + outcome.traceback


async def test_a_mail_server_that_is_not_there_was_told_nothing() -> None:
    journal = Journal()
    with mail_server() as server:
        settings = by_mail(server)
    assert (await attempt(SKILL, MAIL, settings, journal)).code == "NOT_DONE"
    assert journal.begun == {}


@pytest.mark.parametrize(("policy", "mails"), [(None, 1), ("ask", 1), ("fail", 1), ("retry", 2)])
async def test_a_mail_in_doubt_is_sent_again_only_where_that_was_said(policy: str | None, mails: int) -> None:
    with mail_server() as server:
        journal = Journal()
        journal.crash_before_record = True
        given = {**MAIL, "on_unknown": policy}
        assert (await attempt(SKILL, given, by_mail(server), journal)).kind == "fenced"
        journal.crash_before_record = False
        outcome = await attempt(SKILL, given, by_mail(server), journal)
        assert (outcome.code, len(server.mails)) == ("IN_DOUBT" if mails == 1 else "", mails)
        asked = [args for name, args in journal.asked if name == "effects.begin"]
        assert {(one["effect_key"], one["on_unknown"]) for one in asked} == {("task-1/send", policy or "ask")}
        names = {message_from_string(text)["Message-ID"] for _, text in server.mails}
        assert len(names) == 1, "a copy can be told by its name"


async def test_a_webhook_gets_a_signed_post_with_a_key(web: WebServer) -> None:
    web.routes["/hook"] = lambda asked: Reply(b"ok")
    await value(SKILL, HOOK, by_hook(web, secret="s3", headers={"Authorization": "Bearer t"}))
    await value(SKILL, {"channel": "hook", "data": {"a": [1]}}, by_hook(web))
    first, second = web.asked
    assert (json.loads(first.body), json.loads(second.body)) == ({"subject": "s", "text": "done"}, {"a": [1]})
    assert (first.headers["Idempotency-Key"], first.headers["Authorization"]) == ("task-1/send", "Bearer t")
    stamped = f"{first.headers['X-Coterie-Timestamp']}.".encode() + first.body
    signed = hmac.new(b"s3", stamped, hashlib.sha256).hexdigest()
    assert first.headers["X-Coterie-Signature"] == f"sha256={signed}"
    assert "X-Coterie-Signature" not in second.headers


@pytest.mark.parametrize(
    ("reply", "code", "retryable", "in_doubt"),
    [
        (Reply(b"no such hook", 404), "NOT_SENT", False, False),
        (Reply(b"", 302, {"Location": "/other"}), "NOT_SENT", False, False),
        (Reply(b"", 429), "NOT_DONE", True, False),
        (Reply(b"", 503), "NOT_DONE", True, False),
        (Reply(b"", 500), "SENT_UNKNOWN", True, True),
        (Reply(b"", cut=True), "SENT_UNKNOWN", True, True),
    ],
)
async def test_what_is_known_of_a_post_that_failed(
    web: WebServer, reply: Reply, code: str, retryable: bool, in_doubt: bool
) -> None:
    web.routes["/hook"] = lambda asked: reply
    journal = Journal()
    outcome = await attempt(SKILL, HOOK, by_hook(web), journal)
    assert (outcome.code, outcome.retryable, len(web.asked)) == (code, retryable, 1)
    assert ("send" in journal.begun and "send" not in journal.steps) == in_doubt


@pytest.mark.parametrize(
    ("more", "code", "named"),
    [
        ({"url": "http://me:s3cret@127.0.0.1:9/s3cret"}, "NOT_SENT", "url of the channel"),
        ({"url": "http://127.0.0.1:99999/s3cret"}, "NOT_SENT", "url of the channel"),
        ({"url": "http://127.0.0.1:9/s3cret\u00e4"}, "NOT_SENT", "url of the channel"),
        ({"headers": {"Authorization": "s3cret\r\nX: y"}}, "NOT_SENT", "Authorization"),
        ({"url": "https://127.0.0.1:9/", "caFile": "/nowhere/ca.crt"}, "NOT_DONE", "/nowhere/ca.crt"),
        ({"url": "http://[::1]:9/"}, "NOT_DONE", "::1"),
    ],
)
async def test_what_could_not_be_asked_was_told_nothing(
    web: WebServer, more: dict[str, Any], code: str, named: str
) -> None:
    journal = Journal()
    outcome = await attempt(SKILL, HOOK, by_hook(web, **more), journal)
    assert (outcome.code, named in outcome.message) == (code, True), outcome.message
    assert "s3cret" not in outcome.message + outcome.traceback
    assert web.asked == [] and ("send" in journal.steps) == ("send" in journal.begun)


async def test_feishu_is_told_through_its_sdk(web: WebServer) -> None:
    token = {"code": 0, "tenant_access_token": "t-1", "expire": 7200}
    web.routes["/open-apis/auth/v3/tenant_access_token/internal"] = replying(token)
    web.routes["/open-apis/im/v1/messages"] = replying({"code": 0, "data": {"message_id": "om_1"}})
    journal = Journal()
    journal.crash_before_record = True
    await attempt(SKILL, TEAM, by_feishu(web), journal)
    journal.crash_before_record = False
    done = await value(SKILL, TEAM, by_feishu(web), journal=journal)
    assert done == {"channel": "team", "kind": "feishu", "message_id": "om_1"}
    told = [asked for asked in web.asked if "/im/" in asked.path]
    bodies = [json.loads(asked.body) for asked in told]
    assert (told[0].headers["Authorization"], "receive_id_type=chat_id" in told[0].path) == (
        "Bearer t-1",
        True,
    )
    assert (bodies[0]["receive_id"], json.loads(bodies[0]["content"])) == ("oc_1", {"text": "done"})
    assert bodies[0]["uuid"] == bodies[1]["uuid"], "the service sends it once"
    assert json.loads(web.asked[0].body) == {"app_id": f"app-{web.port}", "app_secret": "s3"}


@pytest.mark.parametrize(
    ("token", "message", "code"),
    [
        ({"code": 10014, "msg": "app secret invalid"}, {}, "NOT_SENT"),
        (None, {"code": 230002, "msg": "bot not in chat"}, "NOT_SENT"),
        (None, {"code": 99991400, "msg": "frequency limit"}, "NOT_DONE"),
    ],
)
async def test_what_feishu_refuses(web: WebServer, token: Any, message: Any, code: str) -> None:
    good = {"code": 0, "tenant_access_token": "t-1", "expire": 7200}
    web.routes["/open-apis/auth/v3/tenant_access_token/internal"] = replying(token or good)
    web.routes["/open-apis/im/v1/messages"] = replying(message)
    outcome = await attempt(SKILL, TEAM, by_feishu(web))
    assert (outcome.code, outcome.retryable) == (code, code == "NOT_DONE"), outcome.message


async def test_feishu_that_is_not_there_was_told_nothing() -> None:
    gone = WebServer(9, {}, [])
    journal = Journal()
    outcome = await attempt(SKILL, TEAM, by_feishu(gone), journal)
    assert (outcome.code, journal.begun) == ("NOT_DONE", {}), outcome.message


@pytest.mark.parametrize(
    ("given", "code", "named"),
    [
        ({**MAIL, "channel": "x"}, "BAD_INPUT", "there is no 'x'; known: mail"),
        ({**MAIL, "to": []}, "BAD_INPUT", "to: missing"),
        ({**MAIL, "to": ["ann@elsewhere.org"]}, "NOT_ALLOWED", "ann@elsewhere.org"),
        ({**MAIL, "to": ["a b@example.org"]}, "BAD_INPUT", "no mail address"),
        ({**MAIL, "to": ["x <a@evil.org>, b@example.org"]}, "BAD_INPUT", "no mail address"),
        ({**MAIL, "subject": ""}, "BAD_INPUT", "subject: missing"),
        ({**MAIL, "subject": "a\r\nBcc: x@evil.org"}, "BAD_INPUT", "one line"),
        ({**MAIL, "to": ["a@example.org\r\nx"]}, "BAD_INPUT", "one line"),
        ({"channel": "hook"}, "BAD_INPUT", "data: give it, or text"),
        ({"channel": "hook", "data": ["\ud800"]}, "BAD_INPUT", "data: cannot be written as JSON"),
        ({**TEAM, "to": ["oc_1", "oc_2"]}, "BAD_INPUT", "one receiver"),
        ({**TEAM, "to": ["ou_1"]}, "NOT_ALLOWED", "ou_1"),
    ],
)
async def test_a_mistake_is_named_and_nothing_sent(web: WebServer, given: Any, code: str, named: str) -> None:
    with mail_server() as server:
        parts = (by_mail(server), by_hook(web), by_feishu(web))
        settings = {"channels": {name: one for part in parts for name, one in part["channels"].items()}}
        journal = Journal()
        outcome = await refusal(SKILL, given, settings, journal=journal)
        assert outcome.code == code and named in outcome.message
        assert (server.mails, web.asked, journal.begun) == ([], [], {})


async def test_an_agent_without_network_sends_nothing(web: WebServer) -> None:
    journal = Journal()
    journal.permissions = {"network_access": False, "allowed_endpoints": []}
    assert (await refusal(SKILL, HOOK, by_hook(web), journal=journal)).code == "NOT_ALLOWED"
    assert web.asked == []


async def test_the_sdk_may_be_missing(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "lark_oapi", "communication", "lark")
    outcome = await refusal(SKILL, TEAM, by_feishu(web))
    assert "lark_oapi is not installed on this node; run: pip install 'coterie[feishu]'" in outcome.message


@pytest.mark.parametrize(
    ("channel", "named"),
    [
        ({"kind": "smtp", "host": "h", "sender": "a@b"}, "allowTo"),
        ({"kind": "pigeon"}, "channels.x"),
        ({"kind": "webhook", "url": "ftp://x"}, "url"),
    ],
)
async def test_settings_are_checked(channel: dict[str, Any], named: str) -> None:
    outcome = await refusal(SKILL, HOOK, channels(x=channel))
    assert outcome.code == "BAD_SETTINGS" and named in outcome.message
