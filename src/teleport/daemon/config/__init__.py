"""teleport.yaml and the flags of `teleport start`: parsed once, strictly, into values that services are built from.

Names are loaded when they are asked for: who has a `Config` already needs none of what reads one (memory, start).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from teleport.daemon.config.auth_section import Authentication as Authentication
    from teleport.daemon.config.auth_section import StaticToken as StaticToken
    from teleport.daemon.config.auth_section import TokenRole as TokenRole
    from teleport.daemon.config.effective import StartFlags as StartFlags
    from teleport.daemon.config.effective import effective_config as effective_config
    from teleport.daemon.config.file import DEFAULT_PATH as DEFAULT_PATH
    from teleport.daemon.config.file import FileConfig as FileConfig
    from teleport.daemon.config.file import InvalidConfig as InvalidConfig
    from teleport.daemon.config.file import load_config as load_config
    from teleport.daemon.config.file import read_config as read_config
    from teleport.daemon.config.ports import DEFAULT_PORTS as DEFAULT_PORTS
    from teleport.daemon.config.proxy_section import KeyPair as KeyPair
    from teleport.daemon.config.sample import sample_config as sample_config
    from teleport.daemon.config.teleport_section import Cache as Cache
    from teleport.daemon.config.teleport_section import ConnectionLimits as ConnectionLimits
    from teleport.daemon.config.teleport_section import Log as Log
    from teleport.daemon.config.teleport_section import LogFormat as LogFormat
    from teleport.daemon.config.token_source import TokenSource as TokenSource
    from teleport.daemon.config.values import AuthConfig as AuthConfig
    from teleport.daemon.config.values import Config as Config
    from teleport.daemon.config.values import JoinMethod as JoinMethod
    from teleport.daemon.config.values import LogConfig as LogConfig
    from teleport.daemon.config.values import ManagedResource as ManagedResource
    from teleport.daemon.config.values import NodeConfig as NodeConfig
    from teleport.daemon.config.values import ProxyConfig as ProxyConfig
    from teleport.daemon.config.values import ServiceRole as ServiceRole
    from teleport.daemon.config.values import SessionLimits as SessionLimits
    from teleport.daemon.config.values import Severity as Severity
    from teleport.daemon.config.values import SshAlgorithms as SshAlgorithms
    from teleport.daemon.config.values import StorageConfig as StorageConfig

_NAMES: Final = {
    "auth_section": (
        "Authentication",
        "StaticToken",
        "TokenRole",
    ),
    "effective": (
        "StartFlags",
        "effective_config",
    ),
    "file": (
        "DEFAULT_PATH",
        "FileConfig",
        "InvalidConfig",
        "load_config",
        "read_config",
    ),
    "ports": ("DEFAULT_PORTS",),
    "proxy_section": ("KeyPair",),
    "sample": ("sample_config",),
    "teleport_section": (
        "Cache",
        "ConnectionLimits",
        "Log",
        "LogFormat",
    ),
    "token_source": ("TokenSource",),
    "values": (
        "AuthConfig",
        "Config",
        "JoinMethod",
        "LogConfig",
        "ManagedResource",
        "NodeConfig",
        "ProxyConfig",
        "ServiceRole",
        "SessionLimits",
        "Severity",
        "SshAlgorithms",
        "StorageConfig",
    ),
}
_WHERE: Final = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
