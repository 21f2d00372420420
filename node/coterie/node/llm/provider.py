"""A provider as the node's loop sees it."""

from __future__ import annotations

from collections.abc import Mapping

from coterie.node.config import ProviderSettings
from coterie.node.llm.clients import Client, OnHandle
from coterie.node.llm.completion import Completion, OnText
from coterie.node.llm.request import LlmRequest
from coterie.node.side_loop import SideLoop, awaited_here, told_here


class Provider:
    """See Client, whose methods these are."""

    def __init__(self, settings: ProviderSettings, side: SideLoop) -> None:
        self.settings, self._side, self._client = settings, side, Client(settings)

    async def prepare(self) -> None:
        """Load what the first call will need."""
        await self._side.run(self._client.prepare())

    async def ask(
        self, request: LlmRequest, headers: Mapping[str, str], on_text: OnText, on_handle: OnHandle
    ) -> Completion:
        """Call the provider. Raises CallFault."""
        work = self._client.ask(request, headers, told_here(on_text), awaited_here(on_handle))
        return await self._side.run(work)

    async def resume(self, handle: str, on_text: OnText) -> Completion:
        """The whole answer of that id. Raises CallFault, or Gone."""
        return await self._side.run(self._client.resume(handle, told_here(on_text)))

    async def close(self) -> None:
        """Let go of the connections."""
        await self._side.run(self._client.close())
