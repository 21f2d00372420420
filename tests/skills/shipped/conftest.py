"""Servers for the tests of shipped skills."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.skills.shipped.webserver import WebServer, serving


@pytest.fixture
def web() -> Iterator[WebServer]:
    """A web server of this test's own."""
    with serving() as server:
        yield server
