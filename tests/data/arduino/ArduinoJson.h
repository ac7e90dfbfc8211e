// The part of ArduinoJson 7 that the example sketch uses.
#pragma once
#include <Arduino.h>
struct JsonVariant {
  JsonVariant operator[](const char *key);
  const char *operator|(const char *otherwise);
  template <typename T> void operator=(const T &value);
};
struct JsonDocument {
  JsonVariant operator[](const char *key);
};
struct DeserializationError {
  explicit operator bool() const;
};
DeserializationError deserializeJson(JsonDocument &to, const uint8_t *from, size_t size);
size_t serializeJson(const JsonDocument &from, char *to, size_t size);
