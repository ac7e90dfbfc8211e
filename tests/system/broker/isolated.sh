#!/bin/bash
# Run in a network of its own: isolated.sh FOLDER PORT BUNDLE PYTHON
#
# There is one way out, a cable to nowhere, whose packets are counted; a broker and edged on loopback;
# and a trace of every call of edged that has to do with the network. Asks one question, has the
# doctor look at the daemon, and writes what was seen into FOLDER.
set -euo pipefail

folder=$1 port=$2 bundle=$3 python=$4
ip link set lo up
# Or the kernel itself greets its IPv6 neighbours on every new interface, now and then.
quiet=/proc/sys/net/ipv6/conf/default/disable_ipv6
[[ ! -e $quiet ]] || echo 1 >"$quiet"
ip link add out type veth peer name nowhere
ip link set nowhere up
ip address add 192.0.2.1/24 dev out
ip link set out up
ip route add default via 192.0.2.254
packets() { awk '$1 == "out:" { print $11 }' /proc/net/dev; }

mosquitto -c "$folder/mosquitto-$port.conf" &
broker=$!
trap 'kill "$broker" "$daemon" 2>/dev/null || true' EXIT
packets >"$folder/packets-before"
strace --follow-forks --quiet=all --trace=network --output="$folder/trace" --string-limit=0 \
    "$python" -m edged run --model "$bundle" --broker "mqtt://localhost:$port" --node kitchen &
daemon=$!
timeout 60 bash -c "until '$python' -m edged ask --broker mqtt://localhost:$port --node kitchen \
    --max-tokens 4 --timeout 10 Hello >'$folder/answer' 2>/dev/null; do :; done"
pid=$(pgrep --parent "$daemon" --full 'edged run' | head -n 1)
"$python" -m edged doctor --offline --model "$bundle" --broker "mqtt://localhost:$port" \
    --pid "$pid" --json >"$folder/doctor.json"
kill -TERM "$pid"
wait "$daemon" || true
packets >"$folder/packets-after"
# The counter counts: something that does want to get out is seen.
echo >/dev/udp/198.51.100.1/9
packets >"$folder/packets-of-a-stranger"
