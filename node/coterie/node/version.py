"""The version of the running code."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("coterie")
except PackageNotFoundError:  # run from a source tree that was never installed
    VERSION = "0.0.0+source"
