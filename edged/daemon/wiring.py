"""The configuration, translated for the transport, the node and the energy meter.

Rule: decides nothing but what follows from several settings together.
"""

import secrets
from dataclasses import replace

from edged.config.keys import IDENTITY_REQUIRED, Config
from edged.daemon import sensors
from edged.daemon.energy import EnergyMeter
from edged.daemon.group import SESSION_EXPIRY_S
from edged.daemon.homeassistant import status_topic
from edged.daemon.invocation import configured_broker
from edged.daemon.loader import ResidentModel
from edged.daemon.memory_plan import DEFAULT_SLOTS
from edged.engine.session import default_num_threads
from edged.node.limits import Limits
from edged.node.sessions import SessionLimits
from edged.protocol.escalation import EscalationTarget, escalation_target
from edged.protocol.wire import RequestDefaults, Topics
from edged.scheduling.fair_share import ShareTerms
from edged.transport.settings import BrokerSettings

# Deliveries beyond queue and slots: without them, cancels would never arrive at a busy node.
_HEADROOM = 8
# The node refuses a request above the payload limit; the broker discards one above this, unseen.
_MAX_PACKET_BYTES = 65536


def topics_of(config: Config) -> Topics:
    """Name the topics of the node, and of its group."""
    return Topics(config.prefix, config.node, config.group.name)


def broker_settings(config: Config) -> BrokerSettings:
    """Return the settings of a connection to the node's broker, with the node's own limits.

    The client identifier is what everybody can guess: see ``edged.daemon.client_id``.

    Raises:
        UnavailableError: If the password file cannot be read.
    """
    broker, num_slots = config.broker, config.model.num_slots or DEFAULT_SLOTS
    return BrokerSettings(
        address=configured_broker(broker),
        client_id=config.client_id,
        ca_file=broker.ca_file,
        keepalive_s=round(broker.keepalive_s),
        session_expiry_s=round(broker.session_expiry_s),
        receive_maximum=config.queue.size + num_slots + _HEADROOM,
        max_packet_bytes=max(_MAX_PACKET_BYTES, config.request.max_payload_bytes * 4),
        protocol=broker.protocol,
        optional_filters=frozenset(own_filters(config)[1:]),
    )


def own_filters(config: Config) -> list[str]:
    """Return what the node's own connection subscribes to; only the first is indispensable."""
    by_account, by_anyone = topics_of(config).request_filters
    is_required = config.security.identity == IDENTITY_REQUIRED
    filters = [by_account, by_anyone] if is_required else [by_anyone, by_account]
    filters.append(status_topic(config.homeassistant.prefix))
    target = escalation_target_of(config)
    return filters if target is None else [*filters, target.reply_filter]


def identity_advice(config: Config) -> str | None:
    """Return what to set where the broker has accounts and the node does not rely on them."""
    if config.broker.username is None or config.security.identity == IDENTITY_REQUIRED:
        return None
    topics = topics_of(config)
    return (
        "set security.identity: required; and in the broker's access list, instead of topic write"
        f" {topics.root}/request/#, pattern write {topics.prefix}/+/client/%u/request/+ and pattern"
        f" read {topics.prefix}/+/client/%u/response/#, as in deploy/mosquitto/edged.acl"
    )


def group_settings(settings: BrokerSettings, config: Config) -> BrokerSettings:
    """Return the settings of the group's connection, from those of the node's own."""
    return replace(
        settings,
        client_id=f"{settings.client_id}-group",
        session_expiry_s=SESSION_EXPIRY_S,
        receive_maximum=config.group.receive_maximum,
    )


def energy_meter(config: Config) -> EnergyMeter:
    """Return the worker's meter."""
    num_threads = config.model.num_threads or default_num_threads()
    return EnergyMeter(sensors.read_joules, config.metrics.watts_per_thread, num_threads)


def limits_of(model: ResidentModel) -> Limits:
    """Return the limits of the node."""
    config, sessions = model.config, model.config.sessions
    # Their gate is fitted: what that took is free again.
    size_bytes = model.specialists.installed.held_bytes(model.engine.num_slots)
    return Limits(
        defaults=_request_defaults(config),
        budget=model.memory.budget,
        max_model_len=model.engine.max_model_len,
        kv_bytes_per_token=model.bundle.manifest.model.kv_bytes_per_token,
        max_waiting=config.queue.size,
        num_slots=model.engine.num_slots,
        share_terms=ShareTerms(
            dict(config.queue.weights),
            config.queue.lend_s,
            is_identity_required=config.security.identity == IDENTITY_REQUIRED,
        ),
        plan=replace(model.memory.plan, specialists_bytes=size_bytes),
        model_id=model.bundle.model_id,
        escalation=escalation_target_of(config),
        sessions=SessionLimits(sessions.count, sessions.max_tokens, sessions.idle_s),
        max_temperature_c=config.budget.max_temperature_c,
        min_battery=config.budget.min_battery,
    )


def escalation_target_of(config: Config) -> EscalationTarget | None:
    """Return whom the node asks what its specialists are unsure of, with a secret of its own."""
    name, user = config.request.escalate_to, config.broker.username
    if name is None:
        return None
    return escalation_target(topics_of(config), name, user, secrets.token_bytes(16))


def _request_defaults(config: Config) -> RequestDefaults:
    request = config.request
    return RequestDefaults(
        topics=topics_of(config),
        timeout_s=request.timeout_s,
        max_timeout_s=request.max_timeout_s,
        max_tokens=request.max_tokens,
        max_payload_bytes=request.max_payload_bytes,
        is_system_allowed=request.allow_system,
        system=request.system_prompt,
        reply_prefixes=request.reply_prefixes,
        discovery_prefix=config.homeassistant.prefix,
        has_sessions=config.sessions.count > 0,
        keeps_corrections=config.state.corrections > 0,
        is_identity_required=config.security.identity == IDENTITY_REQUIRED,
    )
