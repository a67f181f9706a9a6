"""The one image of the pods of tests: busybox, as a container runtime imports it. No registry of images is asked."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Final

BUSYBOX: Final = Path("/bin/busybox")  # linked statically: Debian's busybox-static
IMAGE: Final = "docker.io/local/busybox:1"
PAUSE: Final = "docker.io/local/pause:1"  # what holds a pod's namespaces
_FOLDERS: Final = ("bin", "etc", "tmp", "root", "proc", "sys", "dev", "www")
PAGE: Final = "hello from the pod\n"  # what /www/index.html says


def write_image(file: Path) -> None:
    """Writes both images, which have one layer."""
    layer = _layer()
    found: list[dict[str, object]] = []
    with tarfile.open(file, "w") as out:
        _add(out, "layer.tar", layer)
        for tag, command in ((PAUSE, ["/bin/tail", "-f", "/dev/null"]), (IMAGE, ["/bin/sh"])):
            config = {
                "architecture": _architecture(),
                "os": "linux",
                "config": {"Cmd": command, "Env": ["PATH=/bin"]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            }
            text = json.dumps(config).encode()
            name = f"{hashlib.sha256(text).hexdigest()}.json"
            _add(out, name, text)
            found.append({"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]})
        _add(out, "manifest.json", json.dumps(found).encode())


def _layer() -> bytes:
    made = io.BytesIO()
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(fileobj=made, mode="w") as layer:
        for folder in _FOLDERS:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            layer.addfile(entry)
        _add(layer, "bin/busybox", BUSYBOX.read_bytes(), 0o755)
        _add(layer, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        _add(layer, "www/index.html", PAGE.encode())
        for applet in applets:
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                layer.addfile(entry)
    return made.getvalue()


def _add(into: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    into.addfile(entry, io.BytesIO(content))


def _architecture() -> str:
    asked = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True)
    return asked.stdout.strip()
