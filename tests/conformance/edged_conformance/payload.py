"""The payload and properties of a step, with the ``$`` variables replaced.

``$id`` is the id of the step, ``$id:LABEL`` that of another step of the case; ``$node``,
``$prefix`` and ``$root`` (``prefix/node``) are the node's; ``$client`` is the root of the topics of
who asks: ``$root/client/$user``, or ``$root`` without an account; ``$info.limits.queue`` is a value
of ``info``, a number if it is the complete text, optionally with ``+ 1`` or another operation after
it. ``{"$repeat": "ab", "times": 9}`` is a long text.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edged_conformance.cases import Action, Step
from edged_conformance.errors import NotApplicableError
from edged_conformance.matchers import MISSING, value_at

_WORD = re.compile(r"\$(id:[\w-]+|id|node|prefix|root|client|user|info\.\w+(?:\.\w+)*)")
_WHOLE = re.compile(r"\$(info\.\w+(?:\.\w+)*)(?: ([+*-]) (\d+))?")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}
_QUESTION = {"prompt": "Say a word.", "max_tokens": 4}
"""Default members of ``ask``, in addition to the id."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The values of the ``$`` variables in one step."""

    prefix: str
    node: str
    info: Mapping[str, Any]
    case_id: str
    """Unique to this run and case; ids of steps begin with it."""
    label: str = ""
    user: str | None = None
    """The account that asks."""

    @property
    def root(self) -> str:
        """Root of the node's topics."""
        return f"{self.prefix}/{self.node}"

    @property
    def client(self) -> str:
        """Root of the topics of who asks."""
        return client_root(self.root, self.user)

    def of(self, label: str, user: str | None) -> "Scope":
        """Return the same for the step with this label, of this account."""
        return replace(self, label=label, user=user)

    def fill(self, value: Any) -> Any:  # noqa: ANN401 - JSON has no narrower type
        """Return ``value`` with every ``$`` variable replaced, at any depth."""
        if isinstance(value, str):
            whole = _WHOLE.fullmatch(value)
            if whole:
                return self._number(whole)
            return _WORD.sub(lambda word: str(self._word(word[1])), value)
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        if isinstance(value, dict):
            if "$repeat" in value:
                return str(self.fill(value["$repeat"])) * self.fill(value["times"])
            return {self.fill(key): self.fill(item) for key, item in value.items()}
        return value

    def _word(self, word: str) -> Any:  # noqa: ANN401 - what `info` has
        if word.startswith("info."):
            found = value_at(self.info, word.removeprefix("info."))
            if found is MISSING:
                raise NotApplicableError(f"the node's info has no {word.removeprefix('info.')}")
            return found
        label = word.removeprefix("id:") if word.startswith("id:") else self.label
        names = {"node": self.node, "prefix": self.prefix, "root": self.root}
        names |= {"client": self.client, "user": str(self.user)}
        return names.get(word, f"{self.case_id}-{label}")

    def _number(self, match: re.Match[str]) -> Any:  # noqa: ANN401 - what `info` has
        value = self._word(match[1])
        return _OPERATORS[match[2]](value, int(match[3])) if match[2] else value


def client_root(root: str, user: str | None) -> str:
    """Return the root of the topics of an account at a node, or of who has none."""
    return root if user is None else f"{root}/client/{user}"


@dataclass(frozen=True, slots=True)
class Message:
    """A request ready to be published."""

    topic: str
    payload: bytes
    properties: Mapping[str, Any]
    reply_topic: str
    request_id: str | None
    """The expected ``id`` of the reply."""
    operation: str = ""
    client: str = ""
    """Root of the topics of who asks."""
    is_stream: bool = False
    choices: tuple[str, ...] = ()
    """The options if ``format`` is ``choice``."""
    decision: str | None = None
    """The key that asks for a decision: ``specialist``, ``questions`` or ``probabilities``."""


def build(step: Step, scope: Scope, *, is_v5: bool) -> Message:
    """Build the message of a step that sends one.

    By default, each request has its own reply topic, as a property or in the JSON; over MQTT 3.1.1,
    a payload that is not JSON is answered at the default topic, and so is what is refused for its
    reply topic.
    """
    members = _members(step, scope)
    default_topic = f"{scope.client}/response/{step.operation}"
    own_topic = f"{default_topic}/{scope.case_id}-{step.label}"
    properties = _properties(step, scope)
    reply_topic = default_topic
    if is_v5:
        if not step.is_default_topic:
            properties.setdefault("response_topic", own_topic)
        reply_topic = properties.get("response_topic", reply_topic)
    elif members is not None and not step.is_default_topic:
        members = {"response_topic": own_topic} | members
    if members is not None and "response_topic" not in properties:
        reply_topic = members.get("response_topic") or reply_topic
    if step.expected.names == "response_topic":
        reply_topic = default_topic
    payload = _payload(step, scope, members)
    if step.pad_to is not None:
        payload = payload.ljust(scope.fill(step.pad_to))
    return Message(
        f"{scope.client}/request/{step.operation}",
        payload,
        properties,
        reply_topic if isinstance(reply_topic, str) else default_topic,
        _request_id(step, scope, members),
        step.operation,
        scope.client,
        is_stream=(members or {}).get("stream") is True,
        choices=_choices(members or {}),
        decision=_decision(members or {}),
    )


def _choices(members: Mapping[str, Any]) -> tuple[str, ...]:
    asked = members.get("format")
    if not isinstance(asked, dict) or asked.get("type") != "choice":
        return ()
    choices = asked.get("choices")
    return tuple(choices) if isinstance(choices, list) else ()


def _decision(members: Mapping[str, Any]) -> str | None:
    asked = members.get("format")
    if isinstance(asked, dict) and asked.get("probabilities") is True:
        return "probabilities"
    return next((key for key in ("specialist", "questions") if members.get(key)), None)


def _members(step: Step, scope: Scope) -> dict[str, Any] | None:
    """Return the JSON object of a step; None for any other payload."""
    if step.action is Action.ASK:
        question = dict(_QUESTION)
        if step.body.get("messages") is not None:
            del question["prompt"]
        return dict(scope.fill({"id": "$id"} | question | step.body))
    body = step.body if step.action is Action.CANCEL else step.body.get("json")
    return dict(scope.fill(body)) if isinstance(body, dict) else None


def _payload(step: Step, scope: Scope, members: dict[str, Any] | None) -> bytes:
    if members is not None:
        return json.dumps(members, ensure_ascii=False).encode(errors="surrogatepass")
    if "base64" in step.body:
        return base64.b64decode(step.body["base64"])
    if "text" in step.body:
        return str(scope.fill(step.body["text"])).encode()
    return json.dumps(scope.fill(step.body["json"])).encode()


def _properties(step: Step, scope: Scope) -> dict[str, Any]:
    given = {"correlation_data": f"{scope.case_id}/{step.label}"} | dict(step.properties)
    filled = {name: scope.fill(value) for name, value in given.items() if value is not None}
    data = filled.get("correlation_data")
    if isinstance(data, dict):
        filled["correlation_data"] = base64.b64decode(data["base64"])
    elif data is not None:
        filled["correlation_data"] = str(data).encode()
    user = filled.get("user")
    if user is not None:
        filled["user"] = [("", "")] * user if isinstance(user, int) else list(user.items())
    return filled


def _request_id(step: Step, scope: Scope, members: dict[str, Any] | None) -> str | None:
    """Return the expected id of the reply: ``id``, else ``transaction``, if valid."""
    if step.reply_id is not None:
        return str(scope.fill(step.reply_id))
    if members is None:
        return None
    given = [members.get(key) for key in ("id", "transaction")]
    return next((x for x in given if isinstance(x, str) and _ID.fullmatch(x)), None)
