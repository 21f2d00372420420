"""Runs of the shipped workflows, each with what it must give: outputs, and how every node ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).parents[3] / "cluster-config"
WORKFLOWS, AGENTS = CONFIG / "workflows", CONFIG / "agents"
STOOD_IN = ("k8s-deploy",)
OK, NO, LOST = "SUCCEEDED", "SKIPPED", "FAILED"

# What the language model says, to agents and to nodes of type llm.
SAID = {
    "Analyse what users need": "the specification",
    "Design the system": "the design",
    "Train and deploy": "the model",
    "Review the whole": "a good thing",
    "Say which data are missing": "more, please",
    "What sells?": "up",
    "Describe the charts": "a bar for each source",
    "Write the report": "the report",
}
SCRIPT: tuple[dict[str, Any], ...] = (
    {"when": {"contains": "Choose the answer"}, "answer": {"json": {"choice": 1, "why": "it is shorter"}}},
    *({"when": {"anywhere": words}, "answer": {"text": text}} for words, text in SAID.items()),
    {"when": {"contains": "Round 1:"}, "answer": {"text": "draft 1"}},
    {"when": {"contains": "Round 2:"}, "answer": {"text": "draft 2"}},
    {"when": {"contains": "on fire"}, "answer": {"json": {"urgency": 9, "topic": "outage"}}},
    {"when": {"contains": "Read this ticket"}, "answer": {"json": {"urgency": 3, "topic": "invoice"}}},
)


@dataclass(frozen=True, slots=True)
class Case:
    """One run. `result`: what it gives, or a check of it; None: it fails."""

    workflow: str
    title: str
    inputs: dict[str, Any]
    states: dict[str, str]
    result: Any
    signals: tuple[tuple[str, Any], ...] = ()

    @property
    def file(self) -> Path:
        """The shipped file."""
        return WORKFLOWS / f"{self.workflow}.yaml"

    @property
    def text(self) -> str:
        """What the file says, with stand-ins in the places of shipped skills that need the world outside."""
        text = self.file.read_text(encoding="utf-8")
        for name in STOOD_IN:
            text = text.replace(f"skill: {name}\n", f"skill: no-{name}\n")
        return text

    @property
    def state(self) -> str:
        """How the run ends."""
        return "FAILED" if self.result is None else "SUCCEEDED"

    def gives(self, result: Any) -> bool:
        """Whether that is what it must give."""
        return bool(self.result(result)) if callable(self.result) else bool(result == self.result)


def _delivery() -> Case:
    inputs = {"user_feedback": "slow", "market_research": ["a", "b"], "training_data": {"rows": 3}}
    states = {f"step-{number}": OK for number in range(1, 5)}
    result = {
        "specification": "the specification",
        "design": "the design",
        "model": "the model",
        "reviews": ["a good thing"] * 3,
    }
    return Case("feature-delivery", "delivered", inputs, states, result)


def _deployment(app: str) -> Case:
    inputs = {
        "app": app,
        "image": "registry/app",
        "version": "1.4.2",
        "namespace": "web",
        "channel": "releases",
    }
    if app == "broken":
        return Case("deploy-then-notify", "broken", inputs, {"task_1": LOST, "task_2": NO}, None)
    sent = {"task_2": {"sent": f"{app} 1.4.2 runs in web"}}
    return Case("deploy-then-notify", "deployed", inputs, {"task_1": OK, "task_2": OK}, sent)


def _analysis(values: list[int]) -> Case:
    sources = [
        {"name": "shop", "values": values},
        {"name": "gone", "values": [9], "down": True},
        {"name": "web", "values": [5]},
    ]
    states = dict.fromkeys(("collect", "rows", "enough"), OK)
    inputs = {"question": "What sells?", "sources": sources}
    if len(values) + 1 >= 3:
        states |= {"numbers": OK, "trends": OK, "charts": OK, "report": OK, "too-little": NO}
        numbers = {"count": len(values) + 1, "sum": sum(values) + 5}
        return Case("data-analysis", "enough", inputs, states, {"report": "the report", "numbers": numbers})
    states |= {"numbers": NO, "trends": NO, "charts": NO, "report": NO, "too-little": OK}
    return Case("data-analysis", "too little", inputs, states, {"report": "more, please", "numbers": None})


def _ticket(text: str, *, approved: bool) -> Case:
    urgent = "on fire" in text
    states = dict.fromkeys(("read", "urgent", "draft", "agree"), OK)
    states |= {"page": OK if urgent else NO, "send": OK if approved else NO, "keep": NO if approved else OK}
    sent = {"to": "T-1", "text": "draft 2"} if approved else None
    kept = None if approved else "draft 2"
    result = {"urgency": 9 if urgent else 3, "sent": sent, "kept": kept}
    title = f"{'urgent' if urgent else 'quiet'}, {'sent' if approved else 'kept'}"
    signals = (("approval.agree", {"approved": approved}),)
    return Case("ticket-handling", title, {"ticket": {"id": "T-1", "text": text}}, states, result, signals)


def _documents() -> Case:
    good = [{"path": f"doc-{at}.md", "text": f"# Title {at}\n\nWords of the text {at}.\n"} for at in range(8)]
    documents = [*good, {"text": "a text without a path"}]

    def right(found: Any) -> bool:
        return found["analysed"] == 8 and "Manuals" in found["markdown"] and "doc-7.md" in found["markdown"]

    states = dict.fromkeys(("analyse", "words", "merge"), OK)
    return Case("documents", "merged", {"documents": documents, "title": "Manuals"}, states, right)


MAKERS: tuple[Callable[[], Case], ...] = (
    _delivery,
    lambda: _deployment("shop"),
    lambda: _analysis([1, 2, 3]),
    lambda: _ticket("The house is on fire", approved=True),
    _documents,
    _delivery,
    lambda: _deployment("broken"),
    lambda: _analysis([1]),
    lambda: _ticket("Where is my invoice?", approved=False),
    _documents,
)
CASES = [make() for make in MAKERS]
