"""The command line against real servers of a fake cluster."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from click.testing import CliRunner, Result

from coterie.node.cli.connect import Target
from coterie.node.cli.main import cli
from coterie.node.cli.session import Session
from tests.cli.fakes import ENDPOINT
from tests.client.conftest import client_of
from tests.client.fake import FakeCluster as Nodes


class Console:
    """Runs the program; `json` returns the one document of a command that succeeds."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes

    async def __call__(self, *arguments: str) -> Result:
        def connect(target: Target) -> Any:
            return client_of(self.nodes)

        session = Session(connect=connect)
        return await asyncio.to_thread(
            CliRunner().invoke, cli, list(arguments), env={"COTERIE_ENDPOINT": ENDPOINT}, obj=session
        )

    async def json(self, *arguments: str) -> Any:
        result = await self(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)
