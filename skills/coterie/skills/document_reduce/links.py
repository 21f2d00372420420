"""How documents hang together: near duplicates by min-hash, and who imports whom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

from coterie.skills.document_map.fingerprint import BINS, decode, similarity

Documents = Sequence[Mapping[str, Any]]

# 16 bands of 4 bins: a pair of similarity 0.7 shares a band with probability 0.988, one of 0.3 with 0.12.
BAND_BINS = 4
SIMILARITY_MIN = 0.7
BUCKET_PAIRS_ALL_MAX = 60
PAIRS_MAX = 25
FAMILIES_MAX = 15
FAMILY_MEMBERS_SHOWN = 6
HUBS_MAX = 20


def find_duplicates(documents: Documents) -> dict[str, Any]:
    """Equal documents by digest; similar ones by banded min-hash, as pairs and as families.

    A family is a connected component of the pairs. Source: Leskovec, Rajaraman, Ullman, Mining of Massive
    Datasets, section 3.4.
    """
    by_digest: defaultdict[str, list[str]] = defaultdict(list)
    for document in documents:
        if document["bytes"]:
            by_digest[document["sha256"]].append(document["path"])
    exact = sorted(sorted(paths) for paths in by_digest.values() if len(paths) > 1)
    pairs = _similar_pairs(documents)
    families = _families(pairs)
    return {
        "exact_groups": len(exact),
        "exact": [group[:FAMILY_MEMBERS_SHOWN] for group in exact[:FAMILIES_MAX]],
        "near_pairs": len(pairs),
        "nearest": [
            {"similarity": score, "left": left, "right": right} for left, right, score in pairs[:PAIRS_MAX]
        ],
        "families": [
            {"documents": len(members), "members": members[:FAMILY_MEMBERS_SHOWN]}
            for members in families[:FAMILIES_MAX]
        ],
    }


def import_graph(documents: Documents) -> dict[str, Any]:
    """Modules most imported by others, modules that import the most, and imports from outside."""
    modules = {doc["code"]["module"]: doc["path"] for doc in documents if doc.get("code", {}).get("parsed")}
    importers: defaultdict[str, set[str]] = defaultdict(set)
    outside: defaultdict[str, set[str]] = defaultdict(set)
    imports: dict[str, int] = {}
    for document in documents:
        names = document.get("code", {}).get("imports", [])
        inside = {known for name in names if (known := _known(name, modules))}
        inside.discard(document.get("code", {}).get("module", ""))
        for module in inside:
            importers[module].add(document["path"])
        for name in names:
            if not _known(name, modules):
                outside[name.partition(".")[0]].add(document["path"])
        if inside:
            imports[document["path"]] = len(inside)
    return {
        "edges": sum(imports.values()),
        "hubs": _most({module: len(paths) for module, paths in importers.items()}, "module", "imported_by"),
        "importing_most": _most(imports, "path", "imports"),
        "outside": _most({name: len(paths) for name, paths in outside.items()}, "module", "imported_by"),
    }


def _similar_pairs(documents: Documents) -> list[tuple[str, str, float]]:
    hashes = [decode(document["min_hash"]) for document in documents]
    buckets: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, bins in enumerate(hashes):
        for start in range(0, BINS if bins else 0, BAND_BINS):
            buckets[(start, *bins[start : start + BAND_BINS])].append(number)
    candidates = {pair for members in buckets.values() for pair in _bucket_pairs(members)}
    found = []
    for left, right in candidates:
        first, second = documents[left], documents[right]
        score = round(similarity(hashes[left], hashes[right]), 3)
        if score >= SIMILARITY_MIN and first["sha256"] != second["sha256"]:
            low, high = sorted((first["path"], second["path"]))
            found.append((low, high, score))
    return sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1]))


def _bucket_pairs(members: list[int]) -> Iterator[tuple[int, int]]:
    if len(members) <= BUCKET_PAIRS_ALL_MAX:
        return combinations(members, 2)
    # A chain still joins a large family, at a cost that does not grow with its square.
    return pairwise(members)


def _families(pairs: list[tuple[str, str, float]]) -> list[list[str]]:
    parent: dict[str, str] = {}

    def root(path: str) -> str:
        parent.setdefault(path, path)
        while parent[path] != path:
            parent[path] = parent[parent[path]]
            path = parent[path]
        return path

    for left, right, _ in pairs:
        parent[root(left)] = root(right)
    members: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(parent):
        members[root(path)].append(path)
    return sorted(members.values(), key=lambda family: (-len(family), family))


def _known(name: str, modules: Mapping[str, str]) -> str:
    """The module of the corpus a dotted name means: itself, or the nearest package around it."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def _most(counts: Mapping[str, int], name: str, number: str) -> list[dict[str, Any]]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{name: key, number: count} for key, count in ranked[:HUBS_MAX]]
