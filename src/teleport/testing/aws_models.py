"""Descriptions of AWS's services, of which tests make clients by the hundred."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def read_once() -> None:
    """From here on AWS's library reads each file of them once in this process. It reads them for each client, which is
    most of what a client costs; a daemon has one or two."""
    from botocore import loaders

    read, known = loaders.JSONFileLoader.load_file, {}

    def load_file(self: Any, file_path: str) -> Any:
        if file_path not in known:
            known[file_path] = read(self, file_path)
        return known[file_path]

    loaders.JSONFileLoader.load_file = load_file
