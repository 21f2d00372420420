"""Whom the command line calls: options, then the environment, then the dev cluster of the directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.node.cli.connect import Target, TlsFiles, cluster_for, read_dev_env, resolve_target, tls_files_in
from coterie.node.cli.devdir import write_env
from coterie.node.cli.failures import CommandFailed
from coterie.node.cli.session import Session
from coterie.node.config.secret_files import write_secret
from coterie.node.security.tokens import BOOTSTRAP, mint
from coterie.node.tls import init_tls, issue_user
from tests.cli.fakes import FakeCluster, run


@pytest.fixture
def tls_dir(tmp_path: Path) -> Path:
    init_tls(tmp_path / "tls", ["node-1"])
    return tmp_path / "tls"


def test_an_option_beats_the_environment(tmp_path: Path) -> None:
    environ = {"COTERIE_ENDPOINT": "b:2"}
    assert resolve_target(Session(endpoint="a:1"), environ, tmp_path).endpoints == "a:1"
    assert resolve_target(Session(), environ, tmp_path).endpoints == "b:2"


def test_without_any_endpoint_the_remedies_are_named(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"--endpoint .* COTERIE_ENDPOINT.*coterie dev"):
        resolve_target(Session(), {}, tmp_path)


def test_the_dev_cluster_of_the_directory_is_found(tmp_path: Path, tls_dir: Path) -> None:
    home = tmp_path / "it's here"
    (home / ".coterie-dev").mkdir(parents=True)
    write_env(home / ".coterie-dev", "127.0.0.1:1,127.0.0.1:2", tls_dir)
    target = resolve_target(Session(), {}, home)
    assert target.endpoints == "127.0.0.1:1,127.0.0.1:2"
    assert target.tls == TlsFiles(*(str(tls_dir / n) for n in ("ca.crt", "user.admin.crt", "user.admin.key")))
    # One of its nodes, named expressly, still needs its certificates; a foreign one does not get them.
    assert resolve_target(Session(endpoint="127.0.0.1:2"), {}, home).tls == target.tls
    assert resolve_target(Session(endpoint="127.0.0.1:3"), {}, home).tls is None


def test_the_env_file_survives_odd_paths(tmp_path: Path) -> None:
    odd = tmp_path / "a 'b' $(c)"
    path = write_env(tmp_path, "127.0.0.1:1", odd)
    assert read_dev_env(path) == {"COTERIE_ENDPOINT": "127.0.0.1:1", "COTERIE_TLS_DIR": str(odd)}
    assert read_dev_env(tmp_path / "none") is None


def test_an_env_file_that_no_shell_takes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("export COTERIE_ENDPOINT='127.0.0.1:1", encoding="utf-8")
    with pytest.raises(CommandFailed, match=r"env: .* cannot be read"):
        read_dev_env(path)


def test_tls_from_a_directory_by_option_or_environment(tmp_path: Path, tls_dir: Path) -> None:
    for session, environ in (
        (Session(endpoint="a:1", tls_dir=str(tls_dir)), {}),
        (Session(endpoint="a:1"), {"COTERIE_TLS_DIR": str(tls_dir)}),
    ):
        target = resolve_target(session, environ, tmp_path)
        assert target.tls is not None and target.tls.key == str(tls_dir / "user.admin.key")


def test_single_files_overlay_the_directory(tmp_path: Path, tls_dir: Path) -> None:
    session = Session(endpoint="a:1", tls_dir=str(tls_dir), tls_cert="my.crt", tls_key="my.key")
    assert resolve_target(session, {}, tmp_path).tls == TlsFiles(str(tls_dir / "ca.crt"), "my.crt", "my.key")


@pytest.mark.parametrize(
    ("session", "word"),
    [
        (Session(endpoint="a:1", tls_cert="c"), "--tls-ca"),
        (Session(endpoint="a:1", tls_ca="a", tls_cert="c"), "--tls-key"),
        (Session(endpoint="a:1", tls_dir="nowhere"), "coterie tls init"),
        (Session(endpoint="a:1", tls_ca="a", insecure=True), "--insecure"),
        (Session(endpoint="a:1", timeout=-1.0), "--timeout"),
    ],
)
def test_what_contradicts_or_is_missing_is_named(session: Session, word: str, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=word):
        resolve_target(session, {}, tmp_path)


def test_a_bootstrap_token_is_for_the_nodes_that_were_named(tmp_path: Path, tls_dir: Path) -> None:
    for token_id, discover in ((BOOTSTRAP, False), ("", True)):
        path = tmp_path / f"token-{token_id}"
        write_secret(path, mint(token_id))
        session = Session(endpoint="a:1", tls_dir=str(tls_dir), token=str(path))
        assert resolve_target(session, {}, tmp_path).discover is discover
    assert resolve_target(Session(endpoint="a:1"), {}, tmp_path).discover


def test_one_other_user_is_taken_and_several_are_not_guessed(tmp_path: Path) -> None:
    init_tls(tmp_path, ["node-1"], user="eve")
    assert tls_files_in(str(tmp_path)).cert == str(tmp_path / "user.eve.crt")
    issue_user(tmp_path, "bob")
    with pytest.raises(CommandFailed, match=r"user\.bob\.crt, user\.eve\.crt"):
        tls_files_in(str(tmp_path))
    issue_user(tmp_path, "admin")
    assert tls_files_in(str(tmp_path)).cert == str(tmp_path / "user.admin.crt")
    (tmp_path / "user.admin.key").unlink()
    with pytest.raises(CommandFailed, match=r"user\.admin\.key"):
        tls_files_in(str(tmp_path))


def test_insecure_overrules_inherited_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTERIE_TLS_CA", str(tmp_path / "missing.crt"))
    target = resolve_target(Session(endpoint="10.0.0.1:1", insecure=True), {"COTERIE_TLS_CA": "x"}, tmp_path)
    assert target.tls is None and target.insecure
    cluster_for(target)  # would complain about missing.crt


def test_plain_text_beyond_loopback_is_refused_in_the_words_of_the_command_line() -> None:
    with pytest.raises(CommandFailed, match=r"10\.0\.0\.1:1 is refused; give --tls-dir"):
        cluster_for(Target("127.0.0.1:1,10.0.0.1:1", None, False))


@pytest.mark.parametrize("arguments", [["--endpoint", "x:9", "nodes"], ["nodes", "--endpoint", "x:9"]])
def test_global_options_stand_before_or_after_the_command(arguments: list[str]) -> None:
    cluster = FakeCluster()
    run(cluster, *arguments, "--timeout", "7")
    assert cluster.target == Target("x:9", None, False, 7.0, 7.0)
