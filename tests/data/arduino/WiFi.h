#pragma once
struct Client {};
struct WiFiClient : Client {};
enum wl_status_t { WL_CONNECTED = 3 };
struct WiFiClass {
  wl_status_t begin(const char *network, const char *password);
  wl_status_t status();
};
extern WiFiClass WiFi;
