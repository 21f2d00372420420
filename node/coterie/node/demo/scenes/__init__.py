"""The scenes: each module here defines `SCENE`. To add one, write the module and name it in SCENES."""

from __future__ import annotations

import importlib

from coterie.node.demo.stage import Scene

SCENES = {
    "drain": "a rolling restart: each node in turn is drained, stopped and started again under load",
    "zones": "tasks stay in their zone while it lives, go elsewhere when it dies, and come back with it",
}


def load_scene(name: str) -> Scene:
    """The scene of that name, one of SCENES."""
    scene = importlib.import_module(f"coterie.node.demo.scenes.{name.replace('-', '_')}").SCENE
    assert isinstance(scene, Scene)
    return scene
