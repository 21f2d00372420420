"""The readable text of a page: no scripts, no styles, blocks on lines of their own."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin

LINKS_MAX = 100
LINK_CHARS_MAX = 2_000
LINK_TEXT_CHARS_MAX = 200
_HIDDEN = frozenset({"script", "style", "noscript", "template", "svg", "head", "iframe", "object"})
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "dd", "details", "div", "dl", "dt", "fieldset",
    "figure", "figcaption", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li",
    "main", "nav", "ol", "p", "pre", "section", "summary", "table", "tr", "ul",
})  # fmt: skip
_CELLS = frozenset({"td", "th"})
_HEADING = re.compile(r"h([1-6])")
_CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?([a-zA-Z0-9_-]{1,40})""", re.IGNORECASE)


@dataclass(slots=True)
class Page:
    """What a reader sees."""

    title: str = ""
    text: str = ""
    links: list[dict[str, str]] = field(default_factory=list)


def read_page(source: str, url: str) -> Page:
    """The page whose source this is."""
    parser = _Reader(url)
    parser.feed(source)
    parser.close()
    lines = [" ".join(line.split()) if not line.startswith("\0") else line[1:] for line in parser.lines()]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    links = [{**link, "text": link["text"].strip()} for link in parser.links.values()]
    return Page(" ".join(parser.title.split()), text, links)


def decoded(body: bytes, content_type: str) -> str:
    """The text, in the encoding that its server or itself names."""
    named = re.search(r"charset\s*=\s*\"?([\w-]+)", content_type, re.IGNORECASE)
    inside = _CHARSET.search(body[:4_096])
    names = [named[1] if named else "", inside[1].decode("ascii") if inside else "", "utf-8-sig"]
    for name in filter(None, names):
        try:
            return body.decode(name)
        except (LookupError, UnicodeDecodeError):
            continue
    return body.decode("utf-8", "replace")


class _Reader(HTMLParser):
    def __init__(self, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.links: dict[str, dict[str, str]] = {}
        self._base = url
        self._hidden = 0
        self._in_title = False
        self._pre = 0
        self._parts: list[str] = []
        self._link: dict[str, str] | None = None

    def lines(self) -> list[str]:
        """The blocks."""
        return "".join(self._parts).split("\n")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        values = {name: value or "" for name, value in attrs}
        self._in_title = tag == "title" and not self.title
        if tag == "base" and values.get("href"):
            self._base = urljoin(self._base, values["href"])
        self._hidden += tag in _HIDDEN
        if tag == "body":
            self._hidden = 0  # a head that was never closed
        if self._hidden:
            return
        self._pre += tag == "pre"
        if tag in _BLOCKS or tag == "br":
            self._parts.append("\n\n" if tag in ("p", "table") or _HEADING.fullmatch(tag) else "\n")
        if tag in _CELLS:
            self._parts.append(" | ")
        if match := _HEADING.fullmatch(tag):
            self._parts.append("#" * int(match[1]) + " ")
        elif tag == "li":
            self._parts.append("- ")
        elif tag == "a":
            self._open_link(values.get("href", ""))
        elif tag == "img" and values.get("alt"):
            self._parts.append(f" {values['alt']} ")

    def handle_endtag(self, tag: str) -> None:
        """See HTMLParser."""
        self._in_title = False
        if tag in _HIDDEN and self._hidden:
            self._hidden -= 1
            return
        if self._hidden:
            return
        self._pre -= tag == "pre" and self._pre > 0
        if tag in _BLOCKS:
            self._parts.append("\n\n" if tag in ("p", "table") or _HEADING.fullmatch(tag) else "\n")
        elif tag == "a":
            self._link = None

    def handle_data(self, data: str) -> None:
        """See HTMLParser."""
        if self._in_title:
            self.title += data
        if self._hidden:
            return
        # A line of preformatted text keeps its spaces: the mark says so to `read_page`.
        self._parts.append(data.replace("\n", "\n\0") if self._pre else re.sub(r"\s+", " ", data))
        if self._link is not None:
            self._link["text"] = (self._link["text"] + re.sub(r"\s+", " ", data))[:LINK_TEXT_CHARS_MAX]

    def _open_link(self, href: str) -> None:
        url = urldefrag(urljoin(self._base, href.strip())).url if href else ""
        if not url.startswith(("http://", "https://")) or len(url) > LINK_CHARS_MAX:
            return
        if url not in self.links and len(self.links) < LINKS_MAX:
            self.links[url] = {"url": url, "text": ""}
        self._link = self.links.get(url) if not self.links.get(url, {}).get("text") else None
