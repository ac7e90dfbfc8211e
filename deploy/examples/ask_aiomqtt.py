"""Ask a node and print the answer as it comes, with aiomqtt 2:  python ask_aiomqtt.py 'A story'"""

import asyncio
import json
import os
import sys
import uuid

import aiomqtt

USER = os.environ.get("MQTT_USER", "aiomqtt")  # the broker's account; without accounts, any name
OWN = f"edged/{os.environ.get('EDGED_NODE', 'kitchen')}/client/{USER}"
TIMEOUT_S = 30


async def main(prompt: str) -> None:
    name = f"aiomqtt-{uuid.uuid4().hex[:8]}"
    reply_topic, stream_topic = f"{OWN}/response/generate/{name}", f"{OWN}/stream/{name}"
    request = {
        "id": name,  # names the stream
        "prompt": prompt,
        "stream": True,
        "on_deadline": "shorten",
        "timeout_ms": TIMEOUT_S * 1000,
        "response_topic": reply_topic,
    }
    host, port = os.environ.get("MQTT_HOST", "localhost"), int(os.environ.get("MQTT_PORT", "1883"))
    account = {"username": USER, "password": os.environ.get("MQTT_PASSWORD")}
    async with aiomqtt.Client(host, port, identifier=name, **account) as client:
        await client.subscribe([(reply_topic, 1), (stream_topic, 0)])
        await client.publish(f"{OWN}/request/generate", json.dumps(request), qos=1)
        printed = ""
        async for message in client.messages:
            members = json.loads(message.payload)
            if message.topic.matches(stream_topic):
                printed += members["delta"]
                print(members["delta"], end="", flush=True)
            elif members["status"] == "ok":
                # Fragments are QoS 0: the reply has the whole text, should one be lost.
                print("" if printed == members["data"]["text"] else f"\n{members['data']['text']}")
                return
            else:
                sys.exit(f"{members['error']['code']}: {members['error']['message']}")


async def in_time() -> None:
    async with asyncio.timeout(TIMEOUT_S + 5):
        await main(sys.argv[1])


asyncio.run(in_time())
