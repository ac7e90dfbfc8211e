"""Check that the node relies on the broker's accounts, and that the broker keeps them apart."""

from collections.abc import Iterator

from edged.commands.doctor.finding import Finding, failure, good, warning
from edged.commands.doctor.probe import Probe
from edged.config.keys import IDENTITY_REQUIRED, Config
from edged.daemon.wiring import identity_advice, topics_of
from edged.protocol.wire import MAX_USER_BYTES, is_user

# A client that nobody is.
NOBODY = "doctor"
_ACCESS_LIST = "deploy/mosquitto/edged.acl"


def check_accounts(config: Config, probe: Probe) -> Iterator[Finding]:
    """Compare the settings with what the broker lets the node's own account do."""
    user, root = config.broker.username, topics_of(config).root
    is_required = config.security.identity == IDENTITY_REQUIRED
    advice = identity_advice(config)
    if advice is not None:
        said = f"the broker has accounts, and requests on {root}/request/ are answered without one"
        yield warning("identity", said, advice)
    elif is_required and user is None:
        yield warning(
            "identity",
            "security.identity is required, and the broker accepts clients without a password",
            "give every client an account: deploy/mosquitto/edged-lan.conf",
        )
    else:
        yield good("identity", "accounts only" if is_required else "no accounts, no passwords")
    if user is not None and not is_user(user):
        yield warning(
            "account",
            f"{user!r} cannot be a level of a topic: the account has no topics of its own",
            f"give the node an account of at most {MAX_USER_BYTES} bytes without /, + and #",
        )
    elif user is not None or not is_required:
        yield from _delivered(config, probe)


def _delivered(config: Config, probe: Probe) -> Iterator[Finding]:
    """Ask as the node's own account, and as another, which the broker must not let it."""
    topics, user = topics_of(config), config.broker.username
    own = topics.client(user)
    others = [] if user is None else [topics.client(NOBODY)]
    *foreign, problem = probe.ask([*others, own])
    topic = own.request("cancel")
    if problem is None:
        yield good("access request", f"what is published to {topic} arrives")
    else:
        yield warning(
            "access request",
            f"{topic}: {problem}",
            "let the node's account publish there as every account, and the node read"
            f" {topics.request_filters[0]}: {_ACCESS_LIST}",
        )
    if None in foreign:
        is_required = config.security.identity == IDENTITY_REQUIRED
        yield (failure if is_required else warning)(
            "accounts",
            f"the broker lets {user} ask as another account",
            "let each account publish and read below its own topics only:"
            f" pattern write {topics.prefix}/+/client/%u/request/+, {_ACCESS_LIST}",
        )
    elif foreign and problem is None:
        yield good("accounts", "the broker lets nobody ask as another account")
