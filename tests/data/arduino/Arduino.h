// Just enough of Arduino's names to check the example sketch with a compiler.
#pragma once
#include <cstddef>
#include <cstdint>
struct String {
  String(const char *text);
  explicit String(unsigned long number);
  bool operator==(const char *other) const;
  bool operator!=(const String &other) const;
};
struct Port {
  void begin(long baud);
  void println(const char *text);
};
extern Port Serial;
enum { LOW = 0, HIGH = 1, INPUT_PULLUP = 5 };
unsigned long millis();
void delay(unsigned long ms);
void pinMode(uint8_t pin, uint8_t mode);
int digitalRead(uint8_t pin);
