#!/bin/sh
# Ask a node with Mosquitto's own client and print its reply:  ./ask.sh 'Is the boiler ok?'
#
# Needs mosquitto-clients 2. Exit status 27: no reply in time; the broker's or the node's log says why.
set -eu
node=${EDGED_NODE:-kitchen}
exec mosquitto_rr -h "${MQTT_HOST:-localhost}" -p "${MQTT_PORT:-1883}" -V 5 -q 1 -W 40 \
    -t "edged/$node/request/generate" \
    -e "edged/$node/response/generate/$(id -un)-$$" \
    -D publish message-expiry-interval 30 \
    -m "$1"
