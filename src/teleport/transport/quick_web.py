"""Imports `aiohttp.web` as `quick_aiohttp` imports aiohttp, for daemons that serve applications."""

from __future__ import annotations

from teleport.transport.quick_aiohttp import lean

with lean():
    import aiohttp.web  # noqa: F401 (the import itself is the point)
