"""The scenes: each module here defines `SCENE`. To add one, write the module and name it in SCENES."""

from __future__ import annotations

import importlib

from coterie.node.demo.stage import Scene

SCENES = {
    "agents": "four agents analyse data and write a report with charts while nodes are killed in mid-call",
    "avalanche": "an agent fails in a rush, some requests are deadly: one failure stays one failure",
    "drain": "a rolling restart: each node in turn is drained, stopped and started again under load",
    "mapreduce": "one map_reduce over real files, some of them bad, while two nodes are killed",
    "schedule": "each nominal time fires once while leaders are killed; and what a change of the clocks does",
    "zones": "tasks stay in their zone while it lives, go elsewhere when it dies, and come back with it",
}


def load_scene(name: str) -> Scene:
    """The scene of that name, one of SCENES."""
    scene = importlib.import_module(f"coterie.node.demo.scenes.{name.replace('-', '_')}").SCENE
    assert isinstance(scene, Scene)
    return scene
