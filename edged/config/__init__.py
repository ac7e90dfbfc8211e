"""Configuration: text in, one frozen, typed value out.

Rule: a key is declared once, in ``edged.config.keys``; loading, the command line and
``docs/configuration.md`` all use that declaration.
"""

from edged.config.keys import (
    MAX_TUNED_CHUNK_TOKENS,
    BrokerConfig,
    BudgetConfig,
    Config,
    GroupConfig,
    HomeAssistantConfig,
    LogConfig,
    LogFormat,
    LogLevel,
    MetricsConfig,
    ModelConfig,
    ProtocolChoice,
    QueueConfig,
    RequestConfig,
    SessionsConfig,
    StateConfig,
    node_name_of,
)
from edged.config.load import broker_overrides, load_config

__all__ = [
    "MAX_TUNED_CHUNK_TOKENS",
    "BrokerConfig",
    "BudgetConfig",
    "Config",
    "GroupConfig",
    "HomeAssistantConfig",
    "LogConfig",
    "LogFormat",
    "LogLevel",
    "MetricsConfig",
    "ModelConfig",
    "ProtocolChoice",
    "QueueConfig",
    "RequestConfig",
    "SessionsConfig",
    "StateConfig",
    "broker_overrides",
    "load_config",
    "node_name_of",
]
