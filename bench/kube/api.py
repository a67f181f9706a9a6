"""`python -m bench.kube.api FOLDER MEBIBYTES`: the stand-in API server, until it is ended."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from teleport.testing.kube_api import KubeApi

PODS = 20  # that `kubectl get pods` shows


async def serve(folder: Path, mebibytes: int) -> None:
    api = KubeApi(folder, long_log=mebibytes << 20)
    for number in range(PODS - 1):
        api.add_pod("dev", f"pod-{number}")
    async with api.serving():
        unfinished = folder / "kubeconfig.new"
        unfinished.write_text(api.kubeconfig())
        os.replace(unfinished, folder / "kubeconfig")
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
