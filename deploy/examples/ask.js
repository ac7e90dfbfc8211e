// Ask a node and print its answer, with mqtt.js 4 or 5:  node ask.js 'Is the boiler ok?'
// (npm install mqtt; on Debian: apt-get install node-mqtt)
const mqtt = require("mqtt");
const { randomBytes } = require("crypto");

const user = process.env.MQTT_USER || "js"; // the broker's account; without accounts, any name
const own = `edged/${process.env.EDGED_NODE || "kitchen"}/client/${user}`;
const timeoutS = 30;
const name = `js-${randomBytes(4).toString("hex")}`;
const replyTopic = `${own}/response/generate/${name}`;
const client = mqtt.connect({
  host: process.env.MQTT_HOST || "localhost",
  port: Number(process.env.MQTT_PORT || 1883),
  protocolVersion: 5,
  clientId: name,
  username: user,
  password: process.env.MQTT_PASSWORD,
});

function end(status, text) {
  (status ? console.error : console.log)(text);
  process.exitCode = status;
  client.end(true);
  clearTimeout(timer);
}

const timer = setTimeout(() => end(69, "no reply in time"), (timeoutS + 5) * 1000);
client.on("error", (error) => end(69, error.message));
client.on("connect", () => {
  client.subscribe(replyTopic, { qos: 1 }, () => {
    const request = { prompt: process.argv[2], max_tokens: 64, on_deadline: "shorten" };
    client.publish(`${own}/request/generate`, JSON.stringify(request), {
      qos: 1,
      properties: {
        responseTopic: replyTopic,
        correlationData: randomBytes(16),
        contentType: "application/json",
        messageExpiryInterval: timeoutS, // the deadline; a reply comes in any case
      },
    });
  });
});
client.on("message", (_topic, payload) => {
  const reply = JSON.parse(payload);
  if (reply.status === "ok") end(0, reply.data.text);
  else end(1, `${reply.error.code}: ${reply.error.message}`);
});
