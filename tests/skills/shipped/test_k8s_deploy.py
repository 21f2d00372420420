"""Deployments through the official client to an API on loopback."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.skills.shipped.k8s_api import TOKEN, State, api
from tests.skills.shipped.support import Journal, attempt, hide, refusal, value

SKILL = "k8s-deploy"
Cluster = tuple[str, State]
WEB: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "web:1"}]},
        },
    },
}
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf"}, "data": {"a": "1"}}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with api() as found:
        yield found


def settings(cluster: Cluster, **more: Any) -> dict[str, Any]:
    return {
        "clusters": {"main": {"server": cluster[0], "token": TOKEN, "namespaces": ["apps", "team-*"], **more}}
    }


def journal() -> Journal:
    made = Journal()
    made.answers["clock.now"] = lambda args: round(time.time() * 1_000)
    return made


async def do(at: Cluster, operation: str, **more: Any) -> Any:
    given = {"operation": operation, "namespace": "apps", **more}
    return await value(SKILL, given, settings(at), journal=journal())


async def refused(at: Cluster, operation: str, **more: Any) -> Any:
    given = {"operation": operation, "namespace": "apps", **more}
    return await refusal(SKILL, given, settings(at), journal=journal())


def with_image(image: str) -> dict[str, Any]:
    web = copy.deepcopy(WEB)
    web["spec"]["template"]["spec"]["containers"][0]["image"] = image
    return web


def image_of(state: State) -> str:
    found = state.get("deployments", "apps", "web")
    return str(found["spec"]["template"]["spec"]["containers"][0]["image"])


def changes(state: State) -> list[str]:
    return [
        path.rpartition("/")[2]
        for method, path, query in state.asked
        if method != "GET" and "dryRun" not in query
    ]


async def test_objects_are_tried_applied_and_waited_for(cluster: Cluster) -> None:
    state = cluster[1]
    state.rollout = "slow"
    first = await do(cluster, "apply", manifests=[CONFIG, WEB], wait_s=20)
    assert [(one["kind"], one["change"]) for one in first["objects"]] == [
        ("ConfigMap", "new"),
        ("Deployment", "new"),
    ]
    assert first["ready"] is True and image_of(state) == "web:1"
    tried = [
        (path.rpartition("/")[2], "dryRun" in query)
        for method, path, query in state.asked
        if method == "PATCH"
    ]
    assert tried == [("conf", True), ("web", True), ("conf", False), ("web", False)]
    assert {q["fieldManager"] for m, _, q in state.asked if m == "PATCH"} == {"coterie"}
    assert any("watch" in query for _, _, query in state.asked)
    again = await do(cluster, "apply", manifests=[CONFIG, with_image("web:2")])
    assert [one["change"] for one in again["objects"]] == ["same", "changed"] and "ready" not in again
    assert again["objects"][0]["version"] == first["objects"][0]["version"]


HEAD = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: conf}\n"
TENFOLD = "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 10)}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (HEAD + "b0: &b0 [x]\n" + TENFOLD, "aliases"),
        (HEAD + f"b0: &b0 {'x' * 100_000}\nb1: [{', '.join(['*b0'] * 100)}]\n", "aliases"),
        (HEAD + "data: &d {a: *d}\n", "aliases"),
        (HEAD + "data: {since: 2026-01-01}\n", "2026-01-01 is a date, no value of JSON; put it in quotes"),
        (HEAD + "data: {key: !!binary eA==}\n", "is a bytes"),
        (HEAD + "data: {key: .nan}\n", "is a float"),
        (HEAD + "data: {2026-01-01: x}\n", "is a date"),
    ],
)
async def test_yaml_that_is_more_or_else_than_it_looks_like_is_refused(
    cluster: Cluster, text: str, named: str
) -> None:
    ended = await refused(cluster, "apply", yaml=text)
    assert (ended.code, named in ended.message) == ("BAD_INPUT", True), ended.message
    assert cluster[1].asked == []


async def test_documents_of_yaml_are_taken_and_a_dry_run_changes_nothing(cluster: Cluster) -> None:
    text = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: conf}\ndata: {a: '1'}\n---\n"
    found = await do(cluster, "apply", yaml=text, dry_run=True)
    assert found["dry_run"] is True and found["objects"][0]["change"] == "new"
    assert cluster[1].objects == {} and changes(cluster[1]) == []
    await do(cluster, "apply", yaml=text)
    assert cluster[1].get("configmaps", "apps", "conf")["data"] == {"a": "1"}


async def test_where_one_object_would_be_refused_none_is_applied(cluster: Cluster) -> None:
    broken = copy.deepcopy(WEB)
    del broken["spec"]["selector"]
    outcome = await refused(cluster, "apply", manifests=[CONFIG, broken])
    assert outcome.code == "REFUSED" and "spec.selector: Required value" in outcome.message
    assert cluster[1].objects == {}


async def test_a_field_of_another_manager_is_a_conflict_until_taken_over(cluster: Cluster) -> None:
    state = cluster[1]
    place = ("configmaps", "apps", "conf")
    state.apply(place, {**CONFIG, "data": {"a": "9", "b": "2"}}, {"fieldManager": "kubectl"})
    outcome = await refused(cluster, "apply", manifests=[CONFIG])
    assert outcome.code == "CONFLICT" and 'conflict with "kubectl": .data.a' in outcome.message
    await do(cluster, "apply", manifests=[CONFIG], force=True)
    assert state.get(*place)["data"] == {"a": "1", "b": "2"}


async def test_what_is_not_ready_in_time_or_cannot_be_fails_with_the_reason(cluster: Cluster) -> None:
    cluster[1].rollout = "stuck"
    outcome = await refused(cluster, "apply", manifests=[WEB], wait_s=1.2)
    assert outcome.code == "NOT_READY" and "within 1.2 s: its controller has not seen" in outcome.message
    status = await do(cluster, "status", kind="Deployment", name="web")
    assert status["ready"] is False and "controller" in status["why"]
    cluster[1].rollout = "failed"
    outcome = await refused(cluster, "apply", manifests=[with_image("web:2")], wait_s=60)
    assert outcome.code == "NOT_READY" and "has timed out progressing" in outcome.message


async def test_watches_that_end_early_do_not_end_the_wait(cluster: Cluster) -> None:
    cluster[1].rollout, cluster[1].watches_end = "slow", True
    assert (await do(cluster, "apply", manifests=[WEB], wait_s=20))["ready"] is True


async def test_a_rollback_takes_the_template_of_an_earlier_revision(cluster: Cluster) -> None:
    state = cluster[1]
    for image in ("web:1", "web:2", "web:3"):
        await do(cluster, "apply", manifests=[with_image(image)])
    tried = await do(cluster, "rollback", name="web", dry_run=True)
    assert tried["revision"] == 2 and image_of(state) == "web:3"
    back = await do(cluster, "rollback", name="web", wait_s=10)
    assert (back["revision"], back["ready"], image_of(state)) == (2, True, "web:2")
    assert (
        "pod-template-hash"
        not in state.get("deployments", "apps", "web")["spec"]["template"]["metadata"]["labels"]
    )
    await do(cluster, "rollback", name="web", revision=1)
    assert image_of(state) == "web:1"
    outcome = await refused(cluster, "rollback", name="web", revision=77)
    assert outcome.code == "NOT_FOUND" and "known:" in outcome.message
    conflict = await refused(cluster, "apply", manifests=[with_image("web:4")])
    assert conflict.code == "CONFLICT"


async def test_a_rollback_that_crashed_does_not_undo_itself(cluster: Cluster) -> None:
    state = cluster[1]
    for image in ("web:1", "web:2"):
        await do(cluster, "apply", manifests=[with_image(image)])
    task = journal()
    task.crash_before_record = True
    given = {"operation": "rollback", "namespace": "apps", "name": "web"}
    assert (await attempt(SKILL, given, settings(cluster), task)).kind == "fenced"
    assert image_of(state) == "web:1"
    task.crash_before_record = False
    assert (await value(SKILL, given, settings(cluster), journal=task))["revision"] == 1
    assert image_of(state) == "web:1"


async def test_an_apply_that_crashed_is_finished_and_recorded_once(cluster: Cluster) -> None:
    task = journal()
    task.crash_before_record = True
    given = {"operation": "apply", "namespace": "apps", "manifests": [CONFIG, WEB]}
    assert (await attempt(SKILL, given, settings(cluster), task)).kind == "fenced"
    task.crash_before_record = False
    found = await value(SKILL, given, settings(cluster), journal=task)
    assert [one["change"] for one in found["objects"]] == ["new", "new"]
    assert changes(cluster[1]) == ["conf", "web"] and set(task.begun) == {"apply0", "apply1"}


async def crashed(cluster: Cluster, **given: Any) -> tuple[Journal, dict[str, Any]]:
    """A task that has changed something and died before that was recorded: its journal and payload."""
    task, payload = journal(), {"namespace": "apps", **given}
    task.crash_before_record = True
    assert (await attempt(SKILL, payload, settings(cluster), task)).kind == "fenced"
    task.crash_before_record = False
    return task, payload


@pytest.mark.parametrize("between", ["web:2", "web:0"], ids=["another", "back to what was there"])
@pytest.mark.parametrize("force", [False, True])
async def test_a_repeat_does_not_win_over_a_newer_apply(cluster: Cluster, between: str, force: bool) -> None:
    await do(cluster, "apply", manifests=[with_image("web:0")])
    task, given = await crashed(cluster, operation="apply", manifests=[WEB], force=force)
    assert image_of(cluster[1]) == "web:1"
    await do(cluster, "apply", manifests=[with_image(between)])
    outcome = await refusal(SKILL, given, settings(cluster), journal=task)
    assert outcome.code == "CONFLICT" and "somebody else has changed it since" in outcome.message
    assert image_of(cluster[1]) == between


async def test_a_repeat_of_what_never_arrived_is_made(cluster: Cluster) -> None:
    """Its status has changed since, which is no change of what is wanted."""
    state = cluster[1]
    await do(cluster, "apply", manifests=[with_image("web:0")])
    task = journal()
    given = {"operation": "apply", "namespace": "apps", "manifests": [WEB]}
    state.fail_applies = 1
    outcome = await attempt(SKILL, given, settings(cluster), task)
    assert (outcome.code, image_of(state)) == ("CLUSTER_FAILED", "web:0")
    state.finish(state.get("deployments", "apps", "web"))
    await value(SKILL, given, settings(cluster), journal=task)
    assert image_of(state) == "web:1"


async def test_a_repeated_rollback_does_not_win_over_a_newer_apply(cluster: Cluster) -> None:
    for image in ("web:1", "web:2"):
        await do(cluster, "apply", manifests=[with_image(image)])
    task, given = await crashed(cluster, operation="rollback", name="web")
    assert image_of(cluster[1]) == "web:1"
    await do(cluster, "apply", manifests=[with_image("web:3")], force=True)
    outcome = await refusal(SKILL, given, settings(cluster), journal=task)
    assert outcome.code == "CONFLICT" and image_of(cluster[1]) == "web:3"


async def test_a_delete_is_of_that_very_object(cluster: Cluster) -> None:
    state = cluster[1]
    await do(cluster, "apply", manifests=[CONFIG])
    assert (await do(cluster, "delete", kind="ConfigMap", name="conf", dry_run=True))["dry_run"] is True
    task = journal()
    task.crash_before_record = True
    given = {"operation": "delete", "namespace": "apps", "kind": "ConfigMap", "name": "conf"}
    assert (await attempt(SKILL, given, settings(cluster), task)).kind == "fenced"
    assert state.objects == {}
    await do(cluster, "apply", manifests=[CONFIG])  # somebody makes another one
    task.crash_before_record = False
    assert (await value(SKILL, given, settings(cluster), journal=task))["deleted"] is True
    assert len(state.objects) == 1, "another object of that name is left alone"
    assert (await do(cluster, "delete", kind="ConfigMap", name="none"))["deleted"] is False


async def test_objects_are_listed_through_all_pages(cluster: Cluster) -> None:
    cluster[1].page_max = 2
    many = [{**CONFIG, "metadata": {"name": f"c{n}", "labels": {"odd": str(n % 2)}}} for n in range(5)]
    await do(cluster, "apply", manifests=many)
    found = await do(cluster, "list", kind="ConfigMap", selector="odd=0")
    assert [one["name"] for one in found["objects"]] == ["c0", "c2", "c4"]
    assert all(one["ready"] for one in found["objects"])


@pytest.mark.parametrize(
    ("operation", "more", "code"),
    [
        ("apply", {"manifests": [CONFIG], "namespace": "kube-system"}, "NOT_ALLOWED"),
        ("apply", {"manifests": [{**CONFIG, "metadata": {"name": "c", "namespace": "other"}}]}, "BAD_INPUT"),
        ("apply", {"manifests": [{**CONFIG, "kind": "Secret"}]}, "NOT_ALLOWED"),
        ("apply", {"manifests": [{**CONFIG, "apiVersion": "v2"}]}, "BAD_INPUT"),
        ("apply", {"manifests": [{**CONFIG, "metadata": {"generateName": "c"}}]}, "BAD_INPUT"),
        ("apply", {"manifests": [CONFIG, CONFIG]}, "BAD_INPUT"),
        ("apply", {"manifests": [CONFIG], "yaml": "a: 1"}, "BAD_INPUT"),
        ("apply", {"yaml": "{"}, "BAD_INPUT"),
        ("apply", {"yaml": "- 1"}, "BAD_INPUT"),
        ("apply", {"manifests": [{**CONFIG, "metadata": {"name": ".."}}]}, "BAD_INPUT"),
        ("apply", {"manifests": [{**CONFIG, "metadata": {"name": "../x"}}]}, "BAD_INPUT"),
        ("apply", {}, "BAD_INPUT"),
        ("apply", {"manifests": [CONFIG], "cluster": "none"}, "BAD_INPUT"),
        ("status", {"kind": "Deployment", "name": "none"}, "NOT_FOUND"),
        ("status", {"kind": "Deployment"}, "BAD_INPUT"),
        ("status", {"kind": "Deployment", "name": "../../secrets/x"}, "BAD_INPUT"),
        ("rollback", {"name": "none"}, "NOT_FOUND"),
    ],
)
async def test_what_may_not_be_is_refused_before_anything_is_done(
    cluster: Cluster, operation: str, more: dict[str, Any], code: str
) -> None:
    outcome = await refused(cluster, operation, **more)
    assert outcome.code == code, outcome
    assert changes(cluster[1]) == []


async def test_what_the_api_says_decides(cluster: Cluster) -> None:
    given = {"operation": "status", "namespace": "apps", "kind": "ConfigMap", "name": "c"}
    cluster[1].fail_next = [503]
    outcome = await attempt(SKILL, given, settings(cluster))
    assert (outcome.code, outcome.retryable) == ("CLUSTER_FAILED", True) and len(cluster[1].asked) == 1
    wrong = await refusal(SKILL, given, settings(cluster, token="wr0ng"))
    assert wrong.code == "NOT_ALLOWED" and "wr0ng" not in wrong.message
    away = await attempt(SKILL, given, settings(("http://127.0.0.1:9", cluster[1])))
    assert (away.code, away.retryable, TOKEN in away.message) == ("CLUSTER_FAILED", True, False)


async def test_a_token_may_be_in_a_file_and_kinds_may_be_added(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    kinds = ["ConfigMap", {"kind": "Cactus", "apiVersion": "plants.example.org/v1", "plural": "cacti"}]
    said = settings(cluster, token="", tokenFile=str(tmp_path / "token"), kinds=kinds)
    plant = {
        "apiVersion": "plants.example.org/v1",
        "kind": "Cactus",
        "metadata": {"name": "c"},
        "spec": {"n": 1},
    }
    given = {"operation": "apply", "namespace": "team-a", "manifests": [plant], "wait_s": 5}
    assert (await value(SKILL, given, said, journal=journal()))["ready"] is True
    assert cluster[1].asked[-1][1].startswith("/apis/plants.example.org/v1/namespaces/team-a/cacti")
    given = {**given, "manifests": [WEB]}
    assert (await refusal(SKILL, given, said, journal=journal())).code == "NOT_ALLOWED"
    wrong = await refusal(SKILL, given, settings(cluster, kinds=["Cactus"]))
    assert wrong.code == "BAD_SETTINGS" and "needs more than a name" in wrong.message


async def test_an_agent_without_network_deploys_nothing(cluster: Cluster) -> None:
    task = journal()
    task.permissions = {"network_access": False}
    given = {"operation": "apply", "namespace": "apps", "manifests": [CONFIG]}
    assert (await refusal(SKILL, given, settings(cluster), journal=task)).code == "NOT_ALLOWED"
    assert cluster[1].asked == []


async def test_the_client_may_be_missing(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "kubernetes", "k8s_deploy", "cluster")
    outcome = await refused(cluster, "status", kind="Deployment", name="web")
    assert outcome.code == "MISSING_EXTRA" and "pip install 'coterie[k8s]'" in outcome.message
