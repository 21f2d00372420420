"""A host that has the ordinary skill run its errands in the sandbox.

python -m tests.skills.errands [--landlock-abi N]
prints what became of each; also as another user, and as on an older kernel
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from coterie.node.skillhost import SkillHost
from coterie.node.skillhost.nouns import ConfinedSkill
from tests.skills.older_kernel import with_landlock
from tests.skills.support import Bench, options

FOLDER = Path(__file__).with_name("ordinary")
SKILL = ConfinedSkill(folder=FOLDER, handler="handler.py:run", name="ordinary")


async def errands() -> Any:
    """What the skill says of each of its errands."""
    host = SkillHost.spawn(options())
    await host.start()
    try:
        return await Bench(host).value("ordinary", confined=SKILL)
    finally:
        await host.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--landlock-abi", type=int, help="as on a kernel that has this version")
    with with_landlock(parser.parse_args().landlock_abi):
        print(json.dumps(asyncio.run(errands())))
