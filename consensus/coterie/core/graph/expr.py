"""Conditions: a part of CEL (the Common Expression Language, github.com/google/cel-spec), parsed to a tree.

Literals, names, `.` and `[]`, `! -`, `* / % + -`, comparisons and `in`, `&& ||`, `? :`, lists, maps and the
functions that `evaluate` knows. There are no loops, so that an evaluation costs no more than the text is long
times the values it looks at. The parser is top-down operator precedence (Pratt, POPL 1973)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from coterie.core.graph.values import ValueFault, read_json
from coterie.core.shown import shown

TEXT_MAX = 4_000  # characters
TREE_DEPTH_MAX = 100  # of brackets and operators together: each level costs whoever walks the tree some stack
DEPTH_MAX = 40
INT_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Literal:
    value: Any


@dataclass(frozen=True, slots=True)
class Name:
    name: str


@dataclass(frozen=True, slots=True)
class Index:
    """`of[key]`; `of.key` is the same with a text."""

    of: Tree
    key: Tree


@dataclass(frozen=True, slots=True)
class Unary:
    operator: str
    of: Tree


@dataclass(frozen=True, slots=True)
class Binary:
    operator: str
    left: Tree
    right: Tree


@dataclass(frozen=True, slots=True)
class Choice:
    condition: Tree
    then: Tree
    otherwise: Tree


@dataclass(frozen=True, slots=True)
class Call:
    function: str
    arguments: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Items:
    items: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Pairs:
    pairs: tuple[tuple[Tree, Tree], ...]


Tree = Literal | Name | Index | Unary | Binary | Choice | Call | Items | Pairs

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)
    | (?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<operator>&&|\|\||==|!=|<=|>=|[-+*/%<>!?:.,()\[\]{}])
    )""",
    re.VERBOSE,
)
_BINDING = {"||": 1, "&&": 2, "*": 5, "/": 5, "%": 5, "+": 4, "-": 4}
_BINDING |= dict.fromkeys(("==", "!=", "<", "<=", ">", ">=", "in"), 3)
_CONSTANTS = {"true": True, "false": False, "null": None}
# Which functions there are, and how many arguments each takes.
FUNCTIONS: dict[str, tuple[int, int]] = {
    "size": (1, 1),
    "has": (1, 1),
    "default": (2, 2),
    "int": (1, 1),
    "double": (1, 1),
    "string": (1, 1),
    "type": (1, 1),
    "lower": (1, 1),
    "startsWith": (2, 2),
    "endsWith": (2, 2),
    "contains": (2, 2),
    "failed": (0, 1),
    "succeeded": (0, 1),
    "skipped": (0, 1),
    "always": (0, 0),
}
METHODS = frozenset({"startsWith", "endsWith", "contains", "size"})  # may stand behind what they look at
SETTLED = frozenset({"failed", "succeeded", "skipped", "always"})  # functions that look at how nodes ended


@lru_cache(maxsize=4_096)
def parse(text: str) -> Tree:
    """The tree of an expression. Raises ValueFault BAD_EXPRESSION with the place and what was expected."""
    if len(text) > TEXT_MAX:
        raise ValueFault("BAD_EXPRESSION", f"{len(text)} characters, the limit is {TEXT_MAX}")
    tree = _Parser(text).whole()
    if _is_too_deep(tree):
        raise ValueFault("BAD_EXPRESSION", f"brackets and operators nested deeper than {TREE_DEPTH_MAX}")
    return tree


def _is_too_deep(tree: Tree) -> bool:
    level: tuple[Tree, ...] = (tree,)
    for _ in range(TREE_DEPTH_MAX):
        level = tuple(child for one in level for child in children(one))
    return bool(level)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth = text, 0, 0
        self._kind = self._token = ""
        self._next()

    def whole(self) -> Tree:
        tree = self._expression()
        if self._kind:
            raise self._fault("an operator or the end")
        return tree

    # --- tokens

    def _next(self) -> str:
        """Go on to the next token; returns the one left behind."""
        before = self._token
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            if self._text[self._at :].strip():
                raise self._fault("a value")
            self._kind = self._token = ""
        else:
            self._kind, self._at = match.lastgroup or "", match.end()
            self._token = match[self._kind]
        return before

    def _fault(self, expected: str) -> ValueFault:
        found = shown(self._token if self._kind else self._text[self._at : self._at + 20] or "the end")
        return ValueFault("BAD_EXPRESSION", f"expected {expected} near {found} in {shown(self._text[:80])}")

    def _expect(self, token: str) -> None:
        if self._kind != "operator" or self._token != token:
            raise self._fault(shown(token))
        self._next()

    def _found(self, token: str) -> bool:
        if self._kind == "operator" and self._token == token:
            self._next()
            return True
        return False

    # --- grammar

    def _expression(self) -> Tree:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise ValueFault("BAD_EXPRESSION", f"nested deeper than {DEPTH_MAX}")
        condition = self._operators(0)
        if self._found("?"):
            then = self._expression()
            self._expect(":")
            condition = Choice(condition, then, self._expression())
        self._depth -= 1
        return condition

    def _operators(self, binding: int) -> Tree:
        left, chained = self._unary(), 0
        while (mine := self._binding()) > binding:
            operator = self._next()
            left = Binary(operator, left, self._operators(mine))
            chained += 1
            if chained > DEPTH_MAX:
                raise ValueFault("BAD_EXPRESSION", f"more than {DEPTH_MAX} operators in a row; use brackets")
        return left

    def _binding(self) -> int:
        known = self._kind == "operator" or self._token == "in"
        return _BINDING.get(self._token, 0) if known else 0

    def _unary(self) -> Tree:
        operators: list[str] = []
        while self._kind == "operator" and self._token in "!-" and len(operators) <= DEPTH_MAX:
            operators.append(self._next())
        tree = self._postfix(self._primary())
        for operator in reversed(operators):
            tree = Unary(operator, tree)
        return tree

    def _postfix(self, tree: Tree) -> Tree:
        for _ in range(DEPTH_MAX):
            if self._found("."):
                if self._kind != "name":
                    raise self._fault("a name")
                name = self._next()
                if name in METHODS and self._found("("):
                    tree = _call(name, (tree, *self._list(")")))
                else:
                    tree = Index(tree, Literal(name))
            elif self._found("["):
                tree = Index(tree, self._expression())
                self._expect("]")
            else:
                return tree
        raise ValueFault("BAD_EXPRESSION", f"a path of more than {DEPTH_MAX} parts")

    def _primary(self) -> Tree:
        if self._kind == "number":
            return Literal(_number(self._next()))
        if self._kind == "text":
            return Literal(_unquoted(self._next()))
        if self._kind == "name" and self._token != "in":
            return self._named(self._next())
        if self._found("("):
            tree = self._expression()
            self._expect(")")
            return tree
        if self._found("["):
            return Items(tuple(self._list("]")))
        if self._found("{"):
            return Pairs(tuple(self._pairs()))
        raise self._fault("a value")

    def _named(self, name: str) -> Tree:
        if name in _CONSTANTS:
            return Literal(_CONSTANTS[name])
        if not self._found("("):
            return Name(name)
        return _call(name, tuple(self._list(")")))

    def _list(self, end: str) -> list[Tree]:
        items: list[Tree] = []
        while not self._found(end):
            if items:
                self._expect(",")
            items.append(self._expression())
        return items

    def _pairs(self) -> list[tuple[Tree, Tree]]:
        pairs: list[tuple[Tree, Tree]] = []
        while not self._found("}"):
            if pairs:
                self._expect(",")
            key = self._expression()
            self._expect(":")
            pairs.append((key, self._expression()))
        return pairs


def _call(name: str, arguments: tuple[Tree, ...]) -> Call:
    if name not in FUNCTIONS:
        raise ValueFault(
            "BAD_EXPRESSION", f"no function {shown(name)}; known: {', '.join(sorted(FUNCTIONS))}"
        )
    least, most = FUNCTIONS[name]
    if not least <= len(arguments) <= most:
        raise ValueFault("BAD_EXPRESSION", f"{name}() takes {least} to {most} arguments")
    return Call(name, arguments)


def _number(token: str) -> int | float:
    value = read_json(token.lstrip("0") or "0") if token.isdigit() else read_json(token)
    if isinstance(value, int) and value > INT_MAX:
        raise ValueFault("BAD_EXPRESSION", f"{token[:40]} does not fit into 64 bits")
    assert isinstance(value, int | float)
    return value


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def _unquoted(token: str) -> str:
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), token[1:-1])


def names_in(tree: Tree) -> set[str]:
    """The names a tree reads, except those it only asks about with `has` or gives a `default` for."""
    return {name for name, needed in _names(tree, True) if needed}


def all_names_in(tree: Tree) -> set[str]:
    """Every name a tree mentions."""
    return {name for name, _ in _names(tree, True)}


def _names(tree: Tree, needed: bool) -> list[tuple[str, bool]]:
    if isinstance(tree, Name):
        return [(tree.name, needed)]
    if isinstance(tree, Call) and tree.function in ("has", "default"):
        first = _names(tree.arguments[0], False)
        return first + [found for one in tree.arguments[1:] for found in _names(one, needed)]
    return [found for child in children(tree) for found in _names(child, needed)]


def children(tree: Tree) -> tuple[Tree, ...]:
    """The trees directly below."""
    match tree:
        case Index(of, key):
            return of, key
        case Unary(_, of):
            return (of,)
        case Binary(_, left, right):
            return left, right
        case Choice(condition, then, otherwise):
            return condition, then, otherwise
        case Call(_, arguments):
            return arguments
        case Items(items):
            return items
        case Pairs(pairs):
            return tuple(one for pair in pairs for one in pair)
        case _:
            return ()


def looks_at_ends(tree: Tree) -> bool:
    """Whether it asks how nodes ended: then it is evaluated when all dependencies have, however they did."""
    called = isinstance(tree, Call) and tree.function in SETTLED
    return called or any(looks_at_ends(child) for child in children(tree))


@lru_cache(maxsize=16_384)  # asked at every end of a dependency; a graph has no more nodes than that
def text_looks_at_ends(text: str) -> bool:
    """The same of a text; one that cannot be parsed asks for nothing."""
    try:
        return bool(text) and looks_at_ends(parse(text))
    except ValueFault:
        return False


def nodes_asked_for(tree: Tree) -> set[str]:
    """The ids of nodes about whose end it asks."""
    found = {name for child in children(tree) for name in nodes_asked_for(child)}
    if isinstance(tree, Call) and tree.function in SETTLED and tree.arguments:
        first = tree.arguments[0]
        if isinstance(first, Literal) and isinstance(first.value, str):
            found.add(first.value)
    return found
