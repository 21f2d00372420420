"""What all tests of the simulators share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def logging_comes_back() -> Iterator[None]:
    """The simulators' commands switch logging off for their process, which here is that of all tests."""
    before = logging.root.manager.disable
    yield
    logging.disable(before)
