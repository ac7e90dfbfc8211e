// ESP32: ask a node at the press of the boot button, print the answer on the serial line.
// Libraries: PubSubClient 2.8, ArduinoJson 7. PubSubClient speaks MQTT 3.1.1, so the reply comes to the
// account's default topic, and publishes with QoS 0: no reply within the timeout means ask again.
#include <ArduinoJson.h>
#include <PubSubClient.h>
#include <WiFi.h>

const char *kWifi = "my-network", *kPassword = "my-password", *kBroker = "192.168.1.10";
// The account at the broker is in the topics; without accounts, any name.
const char *kUser = "esp32-1", *kUserPassword = "its-password";
const char *kRequests = "edged/kitchen/client/esp32-1/request/generate";
const char *kReplies = "edged/kitchen/client/esp32-1/response/generate";
const int kButton = 0;

WiFiClient wifi;
PubSubClient mqtt(wifi);
unsigned long asked = 0;  // names the question that is open; 0: none

void onReply(char *topic, uint8_t *payload, unsigned int length) {
  JsonDocument reply;
  if (deserializeJson(reply, payload, length)) return;
  if (asked == 0 || String(reply["id"] | "") != String(asked)) return;  // of an earlier question
  asked = 0;
  bool isOk = String(reply["status"] | "") == "ok";
  Serial.println(isOk ? reply["data"]["text"] | "" : reply["error"]["message"] | "no reason");
}

void ask(const char *prompt) {
  asked = millis() | 1;
  JsonDocument request;
  request["id"] = String(asked);
  request["prompt"] = prompt;
  request["max_tokens"] = 48;
  request["timeout_ms"] = 20000;
  char buffer[512];
  size_t size = serializeJson(request, buffer, sizeof(buffer));
  if (!mqtt.publish(kRequests, (const uint8_t *)buffer, size, false)) asked = 0;
}

void setup() {
  Serial.begin(115200);
  pinMode(kButton, INPUT_PULLUP);
  WiFi.begin(kWifi, kPassword);
  mqtt.setServer(kBroker, 1883);
  mqtt.setBufferSize(4096);  // longer replies are dropped by the library
  mqtt.setCallback(onReply);
}

void loop() {
  if (WiFi.status() == WL_CONNECTED && !mqtt.connected() &&
      mqtt.connect("esp32-1", kUser, kUserPassword)) {
    mqtt.subscribe(kReplies, 1);
  }
  mqtt.loop();
  if (asked != 0 && millis() - asked > 25000) asked = 0;
  if (mqtt.connected() && asked == 0 && digitalRead(kButton) == LOW) ask("Say something kind.");
  delay(20);
}
