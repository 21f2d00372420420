"""A log line is one line, has its fields, holds no secret, and never holds up the process."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.node.observability import (
    REDACTED,
    JsonFormatter,
    LogOutput,
    RateLimit,
    TextFormatter,
    configure,
    get_logger,
    redact,
    redact_text,
)

CANARY = "s3cr3t-c4n4ry"


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Give the logging module back as it was found."""
    root, ours = logging.getLogger(), logging.getLogger("coterie")
    levels, handlers = (root.level, ours.level), list(root.handlers)
    yield
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    logging.captureWarnings(False)


class Lines:
    """A configured log whose lines can be looked at."""

    def __init__(self, **options: Any) -> None:
        self.stream = io.StringIO()
        self.output = configure(stream=self.stream, **options)

    def text(self) -> str:
        self.output.flush()
        return self.stream.getvalue()

    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


def record(message: str, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    return make_record(extra, message, level)


def make_record(
    extra: Mapping[str, object], message: str = "task assigned", level: int = logging.INFO
) -> logging.LogRecord:
    own = {"name": "coterie.worker", "levelno": level, "levelname": logging.getLevelName(level)}
    return logging.makeLogRecord({**own, "msg": message, **extra})


def test_a_json_line_has_the_phrase_and_its_fields() -> None:
    lines = Lines(node_id="n1")
    get_logger("worker").info("task assigned", extra={"task_id": "t-1", "attempt": 2, "zones": ["a", "b"]})
    (line,) = lines.json()
    assert datetime.fromisoformat(line.pop("ts")).tzinfo is not None
    assert line == {
        "level": "INFO",
        "logger": "coterie.worker",
        "message": "task assigned",
        "node_id": "n1",
        "task_id": "t-1",
        "attempt": 2,
        "zones": ["a", "b"],
    }


def test_an_error_carries_its_traceback_in_the_same_line() -> None:
    lines = Lines()
    try:
        raise ValueError("api_key=" + CANARY)
    except ValueError:
        get_logger("worker").exception("skill failed", extra={"message_": 1})
    (line,) = lines.json()
    assert "Traceback" in line["exception"]
    assert "ValueError" in line["exception"]
    assert CANARY not in line["exception"]


def test_fields_cannot_pose_as_what_the_line_says_itself() -> None:
    lines = Lines(node_id="n1")
    get_logger("x").info("phrase", extra={"level": "FATAL", "node_id": "n9", "ts": 0, "exception": "none"})
    (line,) = lines.json()
    assert (line["level"], line["node_id"]) == ("INFO", "n1")
    assert (line["level_"], line["node_id_"], line["ts_"], line["exception_"]) == ("FATAL", "n9", 0, "none")


def test_a_text_line_is_one_readable_line() -> None:
    lines = Lines(format="text", node_id="n1")
    get_logger("worker").warning("task\nlost", extra={"task_id": "t-1", "why": 'no "node"\nleft'})
    line = lines.text()
    assert line.endswith(' WARNING n1 worker: task\\nlost task_id=t-1 why="no \\"node\\"\\nleft"\n')
    assert line.count("\n") == 1


def test_what_a_stranger_sends_does_nothing_to_the_terminal() -> None:
    line = TextFormatter("").format(record("\x1b[2Jgone", name_="\x9b31m\u2028\ud800"))
    assert "\\u001b[2Jgone" in line
    assert line.endswith('name_="\\u009b31m\\u2028\\ud800"')


def test_names_of_modules_and_of_parts_are_in_one_tree() -> None:
    assert get_logger("worker").name == "coterie.worker"
    assert get_logger("coterie.node.worker").name == "coterie.node.worker"
    assert get_logger("coterier").name == "coterie.coterier"


def test_levels_hold_for_us_and_other_libraries_are_quiet() -> None:
    lines = Lines(level="debug")
    get_logger("x").debug("ours")
    logging.getLogger("grpc").info("theirs")
    logging.getLogger("grpc").warning("theirs, loud")
    assert [line["message"] for line in lines.json()] == ["ours", "theirs, loud"]


def test_setting_up_twice_writes_each_line_once() -> None:
    first, second = Lines(), Lines()
    get_logger("x").info("once")
    assert first.text() == ""
    assert len(second.json()) == 1


@pytest.mark.parametrize(("option", "value"), [("level", "LOUD"), ("format", "xml")])
def test_an_unknown_option_is_refused_with_what_is_allowed(option: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"log {option} is '{value}', must be one of"):
        configure(**{option: value})  # type: ignore[arg-type]


def test_lines_go_to_a_file_as_well(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "node.log"
    lines = Lines(file=path)
    get_logger("x").info("kept", extra={"größe": "ü"})
    assert lines.text() == path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["größe"] == "ü"


@pytest.mark.parametrize(
    "name",
    [
        *("token", "secret", "password", "api_key", "apiKey", "authorization", "Authorization"),
        *("bearer_token", "x-api-key", "llm_api_key", "DB_PASSWORD", "client_secret", "private_key"),
    ],
)
def test_a_secret_never_reaches_a_line(name: str) -> None:
    deep = {"headers": [{name: CANARY}], name: {"inner": CANARY}}
    for formatter in (JsonFormatter("n1"), TextFormatter("n1")):
        line = formatter.format(make_record({"call": deep, name: CANARY}))
        assert CANARY not in line
        assert REDACTED in line


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {CANARY}",
        f"authorization=Basic {CANARY}",
        f"got Bearer {CANARY} from peer",
        f'{{"api_key": "{CANARY}", "model": "m"}}',
        f"{{'password': '{CANARY} with spaces', 'x': 1}}",
        f"url?token={CANARY}&x=1",
        f"LLM_API_KEY={CANARY}",
        f"secret = {CANARY};",
    ],
)
def test_a_secret_in_a_text_is_cut_out(text: str) -> None:
    assert CANARY not in redact_text(text)
    assert REDACTED in redact_text(text)
    assert CANARY not in JsonFormatter("").format(record(text, detail=text))


def test_a_text_of_many_words_costs_no_more_than_one_of_a_single_word() -> None:
    def cost(text: str) -> float:
        times = []
        for _ in range(3):
            began = time.perf_counter()
            redact_text(text)
            times.append(time.perf_counter() - began)
        return min(times)

    usual = cost("a" * 4_096)
    assert max(map(cost, ("a." * 2_048, "a-" * 2_048, "token." * 682))) < 1_000 * usual


# The same by its meaning: a name begins anywhere in a word. Too slow for long texts.
NAIVE = re.compile(
    r"""(?ix) (?P<name> \b[\w.-]*(?:token|secret|password|passwd|api[_-]?key|authorization)["']?\s*[=:]\s*)
        (?P<value> (?:bearer|basic)\s+\S+ | "[^"]*" | '[^']*' | [^\s,;}&]+ )
        | (?P<scheme> \bbearer\s+) (?P<bearer> [\w.~+/=-]{8,})"""
)
PIECES = (
    "token",
    "api-key",
    "Bearer ",
    "basic ",
    "abcdefgh",
    "é",
    "x",
    ".",
    "-",
    "_",
    "=",
    ":",
    " ",
    '"',
    "'",
    ",",
)


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_names_are_found_wherever_they_begin(text: str) -> None:
    assert redact_text(text) == NAIVE.sub(lambda m: (m["name"] or m["scheme"]) + REDACTED, text)


def test_what_is_no_secret_stays() -> None:
    fields = {"tokens": 17, "tokens_max": 20, "secretary": "Ann", "task_id": "t", "token": "", "ok": True}
    assert {name: redact(name, value) for name, value in fields.items()} == fields
    text = "the tokens per day: 17, secretary Ann, password"
    assert redact_text(text) == text


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        max_size=4,
    ),
    st.text(),
)
@settings(max_examples=50, deadline=None)
def test_any_field_makes_one_line_of_valid_json(fields: dict[str, object], message: str) -> None:
    extra = {f"x{name}": value for name, value in fields.items()}
    line = JsonFormatter("n1").format(make_record(extra, message))
    assert len(line.splitlines()) == 1
    line.encode()
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    text = TextFormatter("n1").format(make_record(extra, message))
    assert len(text.splitlines()) == 1
    text.encode()


def test_huge_values_are_cut() -> None:
    line = JsonFormatter("").format(record("x" * 100_000, blob="y" * 100_000, many=list(range(100_000))))
    assert len(line) < 20_000
    assert "(100000 characters)" in line


def test_repeated_warnings_are_limited_and_counted() -> None:
    clock = [0.0]
    limit = RateLimit(burst=3, interval_s=10, now=lambda: clock[0])
    passed = [limit.filter(record("peer unreachable", logging.WARNING, peer=number)) for number in range(8)]
    assert passed == [True] * 3 + [False] * 5
    assert limit.filter(record("something else", logging.WARNING))
    assert all(limit.filter(record("peer unreachable", logging.INFO)) for _ in range(9))
    clock[0] = 10.0
    again = record("peer unreachable", logging.WARNING)
    assert limit.filter(again)
    assert vars(again)["suppressed"] == 5
    assert "suppressed" not in vars(record("peer unreachable", logging.WARNING))


def test_a_key_of_ones_own_joins_or_parts_phrases() -> None:
    limit = RateLimit(burst=1, now=lambda: 0.0)
    assert limit.filter(record("lost", logging.ERROR, limit_key="n1"))
    assert limit.filter(record("lost", logging.ERROR, limit_key="n2"))
    assert not limit.filter(record("gone", logging.ERROR, limit_key="n1"))
    assert "limit_key" not in JsonFormatter("").format(record("lost", limit_key="n1"))


def test_the_limit_remembers_a_bounded_number_of_phrases() -> None:
    limit = RateLimit(burst=1, now=lambda: 0.0, keys_max=10)
    for number in range(100):
        assert limit.filter(record(f"phrase {number}", logging.WARNING))
    assert len(limit._windows) == 10


def test_an_output_that_nobody_reads_drops_lines_and_blocks_nobody() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as pipe:
        output = LogOutput([logging.StreamHandler(pipe)])
        output.setFormatter(JsonFormatter("n1"))
        logger = logging.Logger("coterie.flood")
        logger.addHandler(output)
        # Far more than the pipe and the queue hold; without the queue this would never come back.
        for number in range(14_000):
            logger.info("flood", extra={"number": number, "padding": "x" * 200})
        assert output.lines_dropped > 0
        received: list[bytes] = []
        drain = threading.Thread(target=lambda: received.extend(iter(lambda: os.read(reader, 65_536), b"")))
        drain.start()
        while output._lines.unfinished_tasks:
            output.flush()
        output.close()
    drain.join()
    os.close(reader)
    lines = [json.loads(line) for line in b"".join(received).splitlines()]
    assert lines[-1]["message"] == "log lines were dropped, the output was too slow"
    assert lines[-1]["lines"] == output.lines_dropped
    assert len(lines) - 1 + output.lines_dropped == 14_000
