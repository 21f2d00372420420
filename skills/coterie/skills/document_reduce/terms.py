"""Key terms over all documents: TF-IDF and an inverted index."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

Documents = Sequence[Mapping[str, Any]]

DOCUMENT_TERMS_MAX = 5
CORPUS_TERMS_MAX = 60
INDEX_TERMS_MAX = 5_000
POSTINGS_MAX = 20


def document_frequencies(documents: Documents) -> Counter[str]:
    """In how many documents each term is among the most frequent."""
    return Counter(term for document in documents for term in document["terms"]["top"])


def idf(documents: int, frequency: int) -> float:
    """Smoothed inverse document frequency: ln((1 + N) / (1 + n)) + 1, as scikit-learn defines it."""
    return math.log((1 + documents) / (1 + frequency)) + 1


def weigh_terms(documents: Documents) -> dict[str, Any]:
    """The terms that tell each document from the others, and those that carry the whole corpus."""
    frequencies = document_frequencies(documents)
    weights: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    per_document = []
    for document in documents:
        terms = document["terms"]
        total = terms["total"] or 1
        scored = {
            term: count / total * idf(len(documents), frequencies[term])
            for term, count in terms["top"].items()
        }
        counts.update(terms["top"])
        # Rounded, so that the order in which floats are added cannot show.
        weights.update({term: round(score * 1e6) for term, score in scored.items()})
        best = sorted(scored, key=lambda term: (-scored[term], term))[:DOCUMENT_TERMS_MAX]
        per_document.append(best)
    top = sorted(weights, key=lambda term: (-weights[term], term))[:CORPUS_TERMS_MAX]
    return {
        "distinct": len(frequencies),
        "corpus": [
            {
                "term": term,
                "weight": round(weights[term] / 1e6, 3),
                "count": counts[term],
                "documents": frequencies[term],
            }
            for term in top
        ],
        "documents": per_document,
    }


def inverted_index(documents: Documents) -> dict[str, list[list[int]]]:
    """term -> [[document number, count], ...], most frequent first, for terms of two documents or more."""
    frequencies = document_frequencies(documents)
    shared = sorted((term for term, n in frequencies.items() if n > 1), key=lambda t: (-frequencies[t], t))
    kept = set(shared[:INDEX_TERMS_MAX])
    postings: defaultdict[str, list[list[int]]] = defaultdict(list)
    for number, document in enumerate(documents):
        for term, count in document["terms"]["top"].items():
            if term in kept:
                postings[term].append([number, count])
    return {
        term: sorted(postings[term], key=lambda posting: (-posting[1], posting[0]))[:POSTINGS_MAX]
        for term in sorted(postings)
    }
