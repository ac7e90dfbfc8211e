"""``edged ask``: ask one question over MQTT, print the answer, explain what went wrong.

Rule: it knows nothing of a node but ``docs/protocol.md``; every wait is bounded, and the exit
status says who has to act: 0 nobody, 65 the caller, 75 try again, 69 look at broker and node.
"""

import argparse
import json
import math
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edged.commands.broker_options import BrokerOptions, add_broker_options, read_broker_options
from edged.commands.inputs_file import read_inputs
from edged.commands.received import ReceivedReply, decode_fragment, decode_reply
from edged.commands.terminal import shown, shown_json
from edged.errors import ErrorCode, ExitCode, UsageError
from edged.protocol.wire import Delivery, Encoded, WireProperties
from edged.transport.events import Connected, ConnectFailed, Published, TransportEvent

CONNECT_TIMEOUT_S = 10.0
# A broker sends a retained availability right after the subscription.
AVAILABILITY_WAIT_S = 0.5
# A node answers by the deadline; this covers the transfer.
MARGIN_S = 5.0
CANCEL_WAIT_S = 3.0
MAX_TIMEOUT_S = 24 * 3600
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


@dataclass(frozen=True, slots=True)
class AskOptions:
    """One question, and where to ask it."""

    prompt: str
    target: BrokerOptions
    is_stream: bool = False
    is_json: bool = False
    """Print the whole reply; when streaming, after the text."""
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    timeout_s: float = 30.0
    protocol: str = "auto"
    specialist: str | None = None
    """Who answers, in place of the plain model."""
    inputs: dict[str, Any] | None = None
    """What it is told beside the prompt."""


def ask(options: AskOptions) -> int:
    """Ask one question, print the answer, return the exit status; blocks until then."""
    question = _Question(options)
    with question.client:
        try:
            return question.run()
        except KeyboardInterrupt:
            return question.cancel()


class _Question:
    """A question and its replies; ``_expect`` is the only place that waits."""

    def __init__(self, options: AskOptions) -> None:
        target = options.target
        self._options = options
        self._target = target
        self._id = f"ask-{secrets.token_hex(8)}"
        self._topics = target.client_topics
        self._reply_topic = target.reply_topic(self._id)
        self._availability: str | None = None
        self._status: int | None = None
        self._next_fragment = 0
        self._printed = ""
        self._has_asked = False
        subscriptions = [self._reply_topic, target.topics.availability]
        # Where a node that answers accounts only tells so everybody else.
        self._advice_topic = target.topics.response("generate")
        if self._topics.root == target.topics.root:
            subscriptions.append(self._advice_topic)
        if options.is_stream:
            subscriptions.append(self._topics.stream(self._id))
        self.client = target.client(self._id, subscriptions, options.protocol)

    def run(self) -> int:
        """Ask and return the exit status; blocks until then."""
        if self._reach_node():
            self._has_asked = True
            self._publish("generate", self._members())
            if not self._expect(None, self._options.timeout_s + MARGIN_S):
                self._give_up(self._explain_silence())
        return ExitCode.UNAVAILABLE if self._status is None else self._status

    def _reach_node(self) -> bool:
        """Connect and read the node's availability; False only when it says it is offline."""
        if not self._expect(Connected, CONNECT_TIMEOUT_S):
            self._give_up(f"{self._target.address.url} does not answer")
        self._expect(Delivery, AVAILABILITY_WAIT_S)
        if self._availability == "offline":
            self._give_up(f"node {self._target.node} is offline; start it and ask again")
        return self._status is None

    def _explain_silence(self) -> str:
        node, url = self._target.node, self._target.address.url
        if self._availability is None:
            return f"no node {node} has ever announced itself at {url}"
        if self._availability == "offline":
            return f"node {node} has gone offline"
        return f"nothing from node {node} within {self._options.timeout_s:g} s"

    def cancel(self) -> int:
        """Cancel the question after Ctrl-C, and print the partial answer."""
        if self._has_asked and self._status is None:
            self._publish("cancel", {"id": self._id})
            self._expect(None, CANCEL_WAIT_S)
        return INTERRUPTED

    def _members(self) -> dict[str, Any]:
        options = self._options
        return {
            "id": self._id,
            "prompt": options.prompt,
            "system": options.system,
            "max_tokens": options.max_tokens,
            "temperature": options.temperature,
            "specialist": options.specialist,
            "inputs": options.inputs,
            "stream": options.is_stream,
            "timeout_ms": math.ceil(options.timeout_s * 1000),
        }

    def _publish(self, operation: str, members: dict[str, Any]) -> None:
        # The keys in the payload are for MQTT 3.1.1, which has no properties.
        payload = json.dumps(members | {"response_topic": self._reply_topic})
        properties = WireProperties(
            response_topic=self._reply_topic,
            correlation_data=self._id.encode(),
            content_type="application/json",
            payload_format=1,
            message_expiry_s=math.ceil(self._options.timeout_s),
        )
        message = Encoded(self._topics.request(operation), payload.encode(), properties)
        self.client.publish(message)

    def _expect(self, awaited: type[TransportEvent] | None, timeout_s: float) -> bool:
        """Handle events until one of the type, or the result, has arrived; False on timeout."""
        if self._status is None:
            for event in self.client.events(timeout_s):
                self._take(event)
                is_awaited = awaited is not None and isinstance(event, awaited)
                if is_awaited or self._status is not None:
                    return True
        return self._status is not None

    def _take(self, event: TransportEvent) -> None:
        match event:
            case Delivery():
                self._take_delivery(event)
            case ConnectFailed() if not self._has_asked:
                self._give_up(event.reason)
            case Connected() if self._has_asked:
                # The connection broke; the node answers the same id with the same answer.
                self._publish("generate", self._members())
            case Published(has_subscribers=False):
                self._give_up(f"no node listens on {self._topics.request('generate')}")
            case Published(failure=str()):
                self._give_up(f"the broker did not accept the question: {event.failure}")

    def _take_delivery(self, delivery: Delivery) -> None:
        if delivery.topic == self._target.topics.availability:
            self._availability = delivery.payload.decode(errors="replace")
        elif delivery.topic == self._topics.stream(self._id):
            self._take_fragment(delivery.payload)
        else:
            self._take_reply(delivery)

    def _take_reply(self, delivery: Delivery) -> None:
        reply = decode_reply(delivery.payload)
        # The reply to a cancel has neither a finish reason nor a code.
        if reply is None or not reply.finish_reason + reply.code:
            return
        is_advice = self._has_asked and reply.code == ErrorCode.IDENTITY_REQUIRED
        if delivery.topic != self._advice_topic or is_advice:
            self._status = self._finish(reply)

    def _take_fragment(self, payload: bytes) -> None:
        fragment = decode_fragment(payload)
        # After a gap (QoS 0 may lose a fragment) the reply has the rest.
        if fragment is not None and fragment.sequence == self._next_fragment:
            self._next_fragment += 1
            self._print(fragment.delta)

    def _print(self, text: str) -> None:
        self._printed += text
        print(shown(text), end="", flush=True)

    def _finish(self, reply: ReceivedReply) -> int:
        """Print the reply and return the exit status."""
        options = self._options
        if reply.is_ok and reply.json is not None and not options.is_json:
            print(shown_json(reply.json))
        elif reply.is_ok and (options.is_stream or not options.is_json):
            is_continued = reply.text.startswith(self._printed)
            self._print(reply.text[len(self._printed) :] if is_continued else f"\n{reply.text}")
            print()
        if options.is_json:
            print(shown_json(reply.members, indent=2))
        if reply.is_ok:
            if reply.finish_reason == "unsure":
                _say("the specialist is unsure; what it says is its best guess")
            elif reply.finish_reason not in {"stop", ""}:
                _say(f"the answer was cut short ({reply.finish_reason})")
            return ExitCode.OK
        retry = f"; try again in {reply.retry_after_s:g} s" if reply.retry_after_s else ""
        advice = retry or "; try again" if reply.is_retryable else "; change the request"
        _say(f"{reply.code}: {reply.message}{advice}")
        return ExitCode.TEMPORARY_FAILURE if reply.is_retryable else ExitCode.DATA_ERROR

    def _give_up(self, reason: str) -> None:
        _say(f"no reply: {reason}")
        self._status = ExitCode.UNAVAILABLE


def _say(text: str) -> None:
    print(f"edged ask: {shown(text)}", file=sys.stderr)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged ask``."""
    parser.add_argument("prompt", metavar="PROMPT", help="what to ask; - reads standard input")
    add_broker_options(parser)
    parser.add_argument(
        "--specialist", metavar="NAME", help="who answers, in place of the plain model"
    )
    parser.add_argument(
        "--inputs", type=Path, metavar="FILE", help="JSON: what the specialist is told, too"
    )
    parser.add_argument("--stream", action="store_true", help="print the text as it comes")
    parser.add_argument("--json", action="store_true", help="print the whole reply as JSON")
    parser.add_argument("--system", metavar="TEXT", help="system text")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest answer, in tokens")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 (greedy) to 2")
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="deadline in s (default: 30)"
    )
    parser.add_argument(
        "--protocol", choices=("auto", "5", "3.1.1"), default="auto", help="MQTT version"
    )


def main(arguments: argparse.Namespace) -> int:
    """Ask one question and return the exit status.

    Raises:
        UsageError: An option is missing or wrong.
    """
    target = read_broker_options(arguments)
    if not 0 < arguments.timeout <= MAX_TIMEOUT_S:
        raise UsageError("--timeout: must be more than 0 s and at most a day")
    is_stdin = arguments.prompt == "-"
    return ask(
        AskOptions(
            prompt=sys.stdin.read() if is_stdin else arguments.prompt,
            target=target,
            is_stream=arguments.stream,
            is_json=arguments.json,
            system=arguments.system,
            max_tokens=arguments.max_tokens,
            temperature=arguments.temperature,
            timeout_s=arguments.timeout,
            protocol=arguments.protocol,
            specialist=arguments.specialist,
            inputs=None if arguments.inputs is None else read_inputs(arguments.inputs),
        )
    )
