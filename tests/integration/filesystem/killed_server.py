"""A data endpoint in a process of its own, to be killed. Prints its port."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.integration.filesystem.serving import serving


async def main() -> None:
    async with serving(Path(sys.argv[1])) as served:
        print(served.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
