// The signatures of PubSubClient 2.8 that the example sketch uses.
#pragma once
#include <WiFi.h>
#include <cstdint>
using Callback = void (*)(char *, uint8_t *, unsigned int);
struct PubSubClient {
  explicit PubSubClient(Client &client);
  PubSubClient &setServer(const char *domain, uint16_t port);
  PubSubClient &setCallback(Callback callback);
  bool setBufferSize(uint16_t size);
  bool connect(const char *id, const char *user, const char *pass);
  bool connected();
  bool publish(const char *topic, const uint8_t *payload, unsigned int length, bool retained);
  bool subscribe(const char *topic, uint8_t qos);
  bool loop();
};
