"""teleport.yaml and the flags of `teleport start`: parsed once, strictly, into values that services are built from."""

from teleport.daemon.config.auth_section import (
    Authentication,
    LockingMode,
    RecordingMode,
    RoutingStrategy,
    SecondFactor,
    StaticToken,
    TokenRole,
)
from teleport.daemon.config.effective import (
    AuthConfig,
    Config,
    ManagedResource,
    NodeConfig,
    ProxyConfig,
    ServiceRole,
    SessionLimits,
    SshAlgorithms,
    StartFlags,
    StorageConfig,
    effective_config,
)
from teleport.daemon.config.file import DEFAULT_PATH, FileConfig, InvalidConfig, load_config, read_config
from teleport.daemon.config.ports import DEFAULT_PORTS
from teleport.daemon.config.proxy_section import KeyPair
from teleport.daemon.config.sample import sample_config
from teleport.daemon.config.teleport_section import Cache, ConnectionLimits, JoinMethod, Log, LogFormat, Severity
from teleport.daemon.config.token_source import TokenSource

__all__ = [
    "DEFAULT_PATH",
    "DEFAULT_PORTS",
    "AuthConfig",
    "Authentication",
    "Cache",
    "Config",
    "ConnectionLimits",
    "FileConfig",
    "InvalidConfig",
    "JoinMethod",
    "KeyPair",
    "LockingMode",
    "Log",
    "LogFormat",
    "ManagedResource",
    "NodeConfig",
    "ProxyConfig",
    "RecordingMode",
    "RoutingStrategy",
    "SecondFactor",
    "ServiceRole",
    "SessionLimits",
    "Severity",
    "SshAlgorithms",
    "StartFlags",
    "StaticToken",
    "StorageConfig",
    "TokenRole",
    "TokenSource",
    "effective_config",
    "load_config",
    "read_config",
    "sample_config",
]
