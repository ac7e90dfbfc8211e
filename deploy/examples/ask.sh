#!/bin/sh
# Ask a node with Mosquitto's own client and print its reply:  ./ask.sh 'Is the boiler ok?'
#
# Needs mosquitto-clients 2, and for a broker with passwords a line `-P PASSWORD` in
# ~/.config/mosquitto_rr. Exit status 27: no reply in time; the broker's or the node's log says why.
set -eu
node=${EDGED_NODE:-kitchen} user=${MQTT_USER:-$(id -un)}
exec mosquitto_rr -h "${MQTT_HOST:-localhost}" -p "${MQTT_PORT:-1883}" -u "$user" -V 5 -q 1 -W 40 \
    -t "edged/$node/client/$user/request/generate" \
    -e "edged/$node/client/$user/response/generate/$$" \
    -D publish message-expiry-interval 30 \
    -m "$1"
