from __future__ import annotations

import sysconfig
from pathlib import Path

from coterie.node.demo.documents import (
    FILE_BYTES_MAX,
    LIBRARY_SUFFIXES,
    Source,
    choose_documents,
    default_sources,
    folder_source,
)


def write(root: Path, name: str, content: str | bytes) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_what_is_no_text_is_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path, "good.py", "x = 1\n")
    write(tmp_path, "bom.txt", b"\xef\xbb\xbfwords")
    write(tmp_path, "latin.py", b"# caf\xe9\n")
    write(tmp_path, "binary.txt", b"a\0b")
    write(tmp_path, "empty.md", " \n")
    write(tmp_path, "huge.txt", "x" * (FILE_BYTES_MAX + 1))
    write(tmp_path, "picture.png", "no text by its name")
    write(tmp_path, "site-packages/other.py", "x = 1\n")
    write(tmp_path, ".hidden/secret.py", "x = 1\n")
    choice = choose_documents([folder_source(tmp_path)], 100)
    assert [(document.path, document.text) for document in choice.documents] == [
        ("bom.txt", "words"),
        ("good.py", "x = 1\n"),
    ]
    assert choice.skipped == {"not UTF-8": 1, "binary": 1, "empty": 1, "above 1 MiB": 1}
    assert choice.size_bytes == 11


def test_the_limit_takes_the_same_even_sample_every_time(tmp_path: Path) -> None:
    for number in range(60):
        write(tmp_path, f"{'ab'[number % 2]}/f{number:02}.py", f"x = {number}\n")
    first = choose_documents([folder_source(tmp_path)], 20)
    again = choose_documents([folder_source(tmp_path)], 20)
    assert first.documents == again.documents
    assert first.skipped["beyond the limit"] == 40
    assert {document.path[0] for document in first.documents} == {"a", "b"}
    larger = choose_documents([folder_source(tmp_path)], 30)
    assert {document.path for document in first.documents} < {document.path for document in larger.documents}


def test_required_sources_survive_the_limit(tmp_path: Path) -> None:
    write(tmp_path, "docs/README.md", "words")
    for number in range(10):
        write(tmp_path, f"lib/f{number}.py", "x = 1\n")
    required = Source(tmp_path / "docs", "docs", LIBRARY_SUFFIXES, "docs/", required=True)
    choice = choose_documents([folder_source(tmp_path / "lib"), required], 3)
    assert "docs/README.md" in [document.path for document in choice.documents]
    assert len(choice.documents) == 3


def test_the_default_is_the_running_library_and_our_own_documentation() -> None:
    roots = [source.root for source in default_sources()]
    assert Path(sysconfig.get_path("stdlib")) in roots
    assert Path(__file__).resolve().parents[2] in roots
    choice = choose_documents(default_sources(), 50)
    assert len(choice.documents) == 50
    assert "coterie/README.md" in [document.path for document in choice.documents]
    assert not [document.path for document in choice.documents if "site-packages" in document.path]
