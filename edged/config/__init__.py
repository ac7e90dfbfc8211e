"""Configuration: text in, one frozen, typed value out.

Rule: a key is declared once, in ``edged.config.keys``, with its kind, default and meaning; loading,
the command line and ``docs/configuration.md`` all read that declaration.
"""

from edged.config.features import GroupConfig, HomeAssistantConfig, SessionsConfig
from edged.config.keys import (
    BrokerConfig,
    BudgetConfig,
    Config,
    LogConfig,
    LogFormat,
    LogLevel,
    ProtocolChoice,
    QueueConfig,
    RequestConfig,
    StateConfig,
    node_name_of,
)
from edged.config.load import broker_overrides, from_options, load_config
from edged.config.measures import MetricsConfig
from edged.config.model import MAX_TUNED_CHUNK_TOKENS, ModelConfig
from edged.config.reference import reference_markdown

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
    "from_options",
    "load_config",
    "node_name_of",
    "reference_markdown",
]
