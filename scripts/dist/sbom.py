"""What is inside, as CycloneDX 1.5: packages with the hashes of the lock, and what the interpreter is made of."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

from scripts.dist.interpreter import Deb
from scripts.dist.locked import ROOT, Locked

_SPACE = uuid.UUID("6f6c1f0a-51a0-5c3c-9d3b-0d3d0b6a7c1e")


def document(version: str, release: str, locked: dict[str, Locked], debs: list[Deb], moment: int) -> dict[str, Any]:
    """The bill of materials of one release."""
    components = [_python(one) for one in locked.values()] + [_debian(one) for one in debs] + web_client()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SPACE, release)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application",
                "bom-ref": "teleport-access",
                "name": "teleport-access",
                "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "properties": [{"name": "release", "value": release}],
            },
        },
        "components": components,
        "dependencies": [{"ref": "teleport-access", "dependsOn": [one["bom-ref"] for one in components]}],
    }


def _python(one: Locked) -> dict[str, Any]:
    """With every file that the lock allows; which of them is inside depends on the machine."""
    reference = f"pkg:pypi/{one.name}@{one.version}"
    allowed = [{"name": "allowed-file:sha256", "value": digest} for digest in one.hashes]
    return {
        "type": "library",
        "bom-ref": reference,
        "name": one.name,
        "version": one.version,
        "purl": reference,
        "properties": allowed,
    }


def _debian(one: Deb) -> dict[str, Any]:
    reference = f"pkg:deb/debian/{one.name}@{one.version.replace(':', '%3A').replace('+', '%2B')}"
    return {
        "type": "library",
        "bom-ref": reference,
        "name": one.name,
        "version": one.version,
        "purl": reference,
        "hashes": [{"alg": "SHA-256", "content": one.sha256}],
    }


def web_client() -> list[dict[str, Any]]:
    """The packages that the web client is bundled with."""
    lock = json.loads((ROOT / "webui" / "package-lock.json").read_text())
    found = []
    for path, one in sorted(lock["packages"].items()):
        name = path.rpartition("node_modules/")[2]
        if not name or one.get("dev"):
            continue
        reference = f"pkg:npm/{name.replace('@', '%40')}@{one['version']}"
        made = {"type": "library", "bom-ref": reference, "name": name, "version": one["version"], "purl": reference}
        found.append(made | ({"licenses": [{"license": {"id": one["license"]}}]} if one.get("license") else {}))
    return found
