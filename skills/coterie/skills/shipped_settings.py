"""What operators may say to shipped skills, by the skill; for whoever checks it before a skill runs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from coterie.skills.shipped import Settings

_MODELS: Mapping[str, str] = {
    "communication": "communication.request:ChannelSettings",
    "data-analysis": "data_analysis.request:AnalysisSettings",
    "document-map": "document_map.request:MapSettings",
    "file-management": "file_management.request:FileSettings",
    "k8s-deploy": "k8s_deploy.request:DeploySettings",
    "object-storage": "object_storage.request:StoreSettings",
    "python-analysis": "python_analysis.request:CodeSettings",
    "summarize": "long_text:TextSettings",
    "translate": "translate.handler:TranslationSettings",
    "web-fetch": "web_fetch.request:WaySettings",
    "web-search": "web_search.request:SearchSettings",
}
NAMES = tuple(_MODELS)


def model_of(skill: str) -> type[Settings] | None:
    """The class of its settings; None: it is no shipped skill, or takes none. Needs no extra."""
    place = _MODELS.get(skill)
    if place is None:
        return None
    module, _, name = place.partition(":")
    found: type[Settings] = getattr(importlib.import_module(f"coterie.skills.{module}"), name)
    return found
