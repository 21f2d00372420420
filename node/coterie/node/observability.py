"""Structured logs: a fixed phrase and fields, one JSON object (or one readable line) each, never a secret.

Lines are formatted where they are logged and written by a thread of their own: a terminal or a pipe that
nobody reads must not stop the event loop, and with it the heartbeats."""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import queue
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

REDACTED: Final = "[redacted]"
FORMATS: Final = ("json", "text")
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_ROOT = "coterie"
_TEXT_CHARS_MAX = 8_192
_DEPTH_MAX = 4
_ITEMS_MAX = 100
_LINES_QUEUED_MAX = 10_000
_FILE_BYTES_MAX = 64 * 1024 * 1024
_FILES_KEPT = 3

_SECRET_ENDINGS = (
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "apikey",
    "authorization",
    "privatekey",
)
# A name is looked for from where its word begins only: from each place in it, a long one would take seconds.
_SECRET_TEXT = re.compile(
    r"""(?ix) (?P<name> (?<![\w.-]) [\w.-]*
            (?:token|secret|password|passwd|api[_-]?key|authorization)["']?\s*[=:]\s*)
        (?P<value> (?:bearer|basic)\s+\S+ | "[^"]*" | '[^']*' | [^\s,;}&]+ )
        | (?P<scheme> \bbearer\s+) (?P<bearer> [\w.~+/=-]{8,})"""
)
# Control characters, the line ends of Unicode, and halves of surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_PLAIN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OWN_KEYS = frozenset({"ts", "level", "logger", "message", "node_id", "exception"})


def get_logger(name: str) -> logging.Logger:
    """The logger of a module (`get_logger(__name__)`) or of a part (`get_logger("worker")`)."""
    return logging.getLogger(name if name.split(".", 1)[0] == _ROOT else f"{_ROOT}.{name}")


def configure(
    level: str = "INFO",
    format: str = "json",
    node_id: str = "",
    file: Path | None = None,
    stream: TextIO | None = None,
) -> LogOutput:
    """Send every log of the process to `stream` (standard error) and to `file`, replacing an earlier set-up.

    Other libraries are heard from WARNING on. Raises ValueError for an unknown level or format."""
    if level.upper() not in LEVELS:
        raise ValueError(f"log level is {level!r}, must be one of {', '.join(LEVELS)}")
    if format not in FORMATS:
        raise ValueError(f"log format is {format!r}, must be one of {', '.join(FORMATS)}")
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, LogOutput)]:
        root.removeHandler(handler)
        handler.close()
    output = LogOutput(_targets(stream, file))
    output.setFormatter(JsonFormatter(node_id) if format == "json" else TextFormatter(node_id))
    output.addFilter(RateLimit())
    root.addHandler(output)
    root.setLevel(logging.WARNING)
    logging.getLogger(_ROOT).setLevel(level.upper())
    logging.captureWarnings(True)
    return output


def redact(name: str, value: object, depth: int = 0) -> object:
    """`value` as it may be logged under `name`: secrets replaced, texts and collections cut to a bound."""
    if _is_secret(name):
        return REDACTED if value not in (None, "") else value
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    if depth < _DEPTH_MAX and isinstance(value, Mapping):
        items = list(value.items())[:_ITEMS_MAX]
        return {str(key): redact(str(key), item, depth + 1) for key, item in items}
    if depth < _DEPTH_MAX and isinstance(value, list | tuple | set | frozenset):
        return [redact("", item, depth + 1) for item in list(value)[:_ITEMS_MAX]]
    return redact_text(str(value))


def redact_text(text: str) -> str:
    """Free text without `password=…`, `"api_key": "…"`, `Bearer …` and the like, cut to a bound."""
    if len(text) > _TEXT_CHARS_MAX:
        text = f"{text[:_TEXT_CHARS_MAX]}… ({len(text)} characters)"
    return _SECRET_TEXT.sub(lambda match: (match["name"] or match["scheme"]) + REDACTED, text)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """What was given as `extra`, redacted. A name that a line uses itself gets an underscore."""
    return {
        f"{name}_" if name in _OWN_KEYS else name: redact(name, value)
        for name, value in vars(record).items()
        if name not in _PLAIN_ATTRIBUTES and not name.startswith("_") and name != "limit_key"
    }


class _LineFormatter(logging.Formatter):
    def __init__(self, node_id: str) -> None:
        super().__init__()
        self._node_id = node_id

    def _exception(self, record: logging.LogRecord) -> str:
        text = self.formatException(record.exc_info) if record.exc_info else record.exc_text or ""
        return redact_text(text)


class JsonFormatter(_LineFormatter):
    """One JSON object: ts, level, logger, message, node_id, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": redact_text(record.getMessage()),
        }
        if self._node_id:
            line["node_id"] = self._node_id
        line.update(fields_of(record))
        if record.exc_info or record.exc_text:
            line["exception"] = self._exception(record)
        return _escape(json.dumps(line, ensure_ascii=False, default=str))


class TextFormatter(_LineFormatter):
    """For people: time, level, node, logger, message, then key=value."""

    def format(self, record: logging.LogRecord) -> str:
        node = f" {self._node_id}" if self._node_id else ""
        name = record.name.removeprefix(f"{_ROOT}.")
        fields = "".join(f" {key}={_shown(value)}" for key, value in fields_of(record).items())
        message = redact_text(record.getMessage())
        lines = [f"{_time(record)[11:23]} {record.levelname:<7}{node} {name}: {message}{fields}"]
        if record.exc_info or record.exc_text:
            lines += self._exception(record).split("\n")
        return "\n".join(map(_escape, lines))


class RateLimit(logging.Filter):
    """Lets a few equal warnings or errors pass in each interval and counts the others.

    Equal means: the same `limit_key` in `extra`, else the same logger, level and phrase. The first one that
    passes again carries the number in the field `suppressed`."""

    def __init__(
        self,
        burst: int = 10,
        interval_s: float = 10.0,
        now: Callable[[], float] = time.monotonic,
        keys_max: int = 1_024,
    ) -> None:
        super().__init__()
        self._burst = burst
        self._interval_s = interval_s
        self._now = now
        self._keys_max = keys_max
        self._lock = threading.Lock()
        self._windows: OrderedDict[object, tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        key = getattr(record, "limit_key", None) or (record.name, record.levelno, record.msg)
        now = self._now()
        with self._lock:
            start, seen = self._windows.pop(key, (now, 0))
            suppressed = 0
            if now - start >= self._interval_s:
                start, seen, suppressed = now, 0, max(0, seen - self._burst)
            self._windows[key] = (start, seen + 1)
            if len(self._windows) > self._keys_max:
                self._windows.popitem(last=False)
        if suppressed:
            record.suppressed = suppressed
        return seen < self._burst


class LogOutput(logging.Handler):
    """Formats at once, writes from a thread. When the writer cannot follow, lines are dropped and counted."""

    def __init__(self, targets: list[logging.Handler]) -> None:
        super().__init__()
        self.lines_dropped = 0
        self._targets = targets
        self._dropped_before = 0
        self._lines: queue.Queue[logging.LogRecord | None] = queue.Queue(_LINES_QUEUED_MAX)
        self._thread = threading.Thread(target=self._write, name="coterie-log", daemon=True)

    def emit(self, record: logging.LogRecord) -> None:
        # The thread begins with the first line: a process may set up its logs and then still fork.
        try:
            if self._thread.ident is None:
                self._thread.start()
            self._lines.put_nowait(_line(self.format(record), record.levelno))
        except queue.Full:
            self.lines_dropped += 1
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait, for a bounded time, until what was logged so far is written."""
        deadline = time.monotonic() + 2
        with self._lines.all_tasks_done:
            while self._lines.unfinished_tasks and (left := deadline - time.monotonic()) > 0:
                self._lines.all_tasks_done.wait(left)

    def close(self) -> None:
        self.flush()
        if self._thread.is_alive():
            # Full means that nobody reads: the thread then ends with the process.
            with contextlib.suppress(queue.Full):
                self._lines.put_nowait(None)
                self._thread.join(2)
        if not self._thread.is_alive():
            for target in self._targets:
                target.close()
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            for target in self._targets:
                target.handle(line)
            self._lines.task_done()
            if self._lines.empty() and self.lines_dropped > self._dropped_before:
                self._report_dropped()
        self._lines.task_done()

    def _report_dropped(self) -> None:
        count, self._dropped_before = self.lines_dropped - self._dropped_before, self.lines_dropped
        record = logging.makeLogRecord(
            {"name": f"{_ROOT}.log", "levelno": logging.WARNING, "levelname": "WARNING", "lines": count}
        )
        record.msg = "log lines were dropped, the output was too slow"
        for target in self._targets:
            target.handle(_line(self.format(record), record.levelno))


def _targets(stream: TextIO | None, file: Path | None) -> list[logging.Handler]:
    targets: list[logging.Handler] = [logging.StreamHandler(stream or sys.stderr)]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        targets.append(
            logging.handlers.RotatingFileHandler(
                file, maxBytes=_FILE_BYTES_MAX, backupCount=_FILES_KEPT, encoding="utf-8"
            )
        )
    return targets


def _line(text: str, level: int) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, "levelno": level})


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _is_secret(name: str) -> bool:
    plain = name.lower().replace("_", "").replace("-", "")
    return plain.endswith(_SECRET_ENDINGS)


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if re.fullmatch(r"[\w.:/@%+-]+", text) else json.dumps(text, ensure_ascii=False)


def _escape(text: str) -> str:
    """`text` as one line that does nothing to a terminal and that every encoding of Unicode takes."""
    return _UNPRINTABLE.sub(lambda match: _ESCAPES.get(match[0]) or f"\\u{ord(match[0]):04x}", text)
