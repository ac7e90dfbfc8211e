"""Ask a node and print its answer, with paho-mqtt 2:  python ask_paho.py 'Is the boiler ok?'"""

import json
import os
import queue
import sys
import uuid

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

USER = os.environ.get("MQTT_USER", "paho")  # the broker's account; without accounts, any name
OWN = f"edged/{os.environ.get('EDGED_NODE', 'kitchen')}/client/{USER}"
TIMEOUT_S = 30
name = f"paho-{uuid.uuid4().hex[:8]}"
reply_topic = f"{OWN}/response/generate/{name}"
replies = queue.SimpleQueue()
subscribed = queue.SimpleQueue()

client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
client.username_pw_set(USER, os.environ.get("MQTT_PASSWORD"))
client.on_connect = lambda *_: client.subscribe(reply_topic, qos=1)
client.on_subscribe = lambda *_: subscribed.put(True)
client.on_message = lambda _client, _data, message: replies.put(json.loads(message.payload))
client.connect(os.environ.get("MQTT_HOST", "localhost"), int(os.environ.get("MQTT_PORT", "1883")))
client.loop_start()
subscribed.get(timeout=10)  # a reply to a topic that is not subscribed yet would be lost

properties = Properties(PacketTypes.PUBLISH)
properties.ResponseTopic = reply_topic
properties.CorrelationData = uuid.uuid4().bytes  # the same one again asks for the same answer
properties.ContentType = "application/json"
properties.MessageExpiryInterval = TIMEOUT_S  # the deadline; a reply comes in any case
request = {"prompt": sys.argv[1], "max_tokens": 64, "on_deadline": "shorten"}
client.publish(f"{OWN}/request/generate", json.dumps(request), qos=1, properties=properties)

reply = replies.get(timeout=TIMEOUT_S + 5)
client.disconnect()
client.loop_stop()
if reply["status"] != "ok":
    sys.exit(f"{reply['error']['code']}: {reply['error']['message']}")
print(reply["data"]["text"])
