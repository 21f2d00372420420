"""Every command line in a block of the documents is one that the program has, options included."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from coterie.node.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
KINDS = ("", "sh", "cron", "ini")
LINE = re.compile(r"(?:^|[$;(|&] ?|do |coterie +)(?:\S*/)?coterie +((?!coterie)[a-z-].*)$")
LINES_MIN = 60  # fewer found: the pages were not understood


def lines() -> Iterator[tuple[str, str]]:
    """The name of a page, and the words behind `coterie` of a line in it."""
    for page in PAGES:
        for block in BLOCK.finditer(page.read_text("utf-8")):
            for line in block[2].replace("\\\n", " ").splitlines() if block[1] in KINDS else ():
                if found := LINE.search(line):
                    yield page.name, found[1]


LINES = sorted(set(lines()))


def words_of(line: str) -> list[str]:
    """As a shell has them, up to what another program or a comment says; signs of optional parts left out."""
    lexer = shlex.shlex(re.sub(r"[\[\]]", "", line), posix=True, punctuation_chars=";&>)")
    lexer.whitespace_split = True
    found = []
    for word in lexer:
        if re.fullmatch(r"[;&>)|]+", word):
            break
        found.append(word)
    return found


def check(words: list[str]) -> None:
    """Walk down to the command; a word may name several of them, joined by |."""
    groups: list[click.Command] = [cli]
    rest = list(words)
    while rest and all(isinstance(group, click.Group) for group in groups):
        word = rest.pop(0)
        if word.startswith("-"):
            option = option_of(word, groups[0])
            if not option.is_flag and "=" not in word:
                rest.pop(0)
            continue
        names = word.split("|")
        while rest[:1] == ["|"]:
            names += rest[1].split("|")
            rest = rest[2:]
        groups = [command_of(group, name) for group in groups for name in names]
    assert not any(isinstance(group, click.Group) for group in groups), "a group, and none of its commands"
    for word in rest:
        if word.startswith("--"):
            for group in groups:
                option_of(word, group)


def command_of(group: click.Command, name: str) -> click.Command:
    assert isinstance(group, click.Group)
    found = group.get_command(click.Context(group), name)
    assert found is not None, f"no command {name!r} in {group.name}"
    return found


def option_of(word: str, command: click.Command) -> click.Option:
    name = word.split("=")[0]
    options = [one for one in command.params if isinstance(one, click.Option)]
    found = [one for one in options if name in (*one.opts, *one.secondary_opts)]
    assert found, f"{command.name} has no {name}"
    return found[0]


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page} {line}" for page, line in LINES])
def test_a_command_on_a_page_is_one_of_the_program(page: str, line: str) -> None:
    check(words_of(line))


def test_there_are_commands_on_the_pages() -> None:
    assert len(LINES) > LINES_MIN


@pytest.mark.parametrize("line", ["task sho ID", "status --wach", "--endpoit h:1 status", "node"])
def test_a_command_that_is_none_is_found(line: str) -> None:
    with pytest.raises(AssertionError):
        check(words_of(line))
