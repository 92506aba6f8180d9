#!/usr/bin/env bash
# Writes while the leader dies, and checks that nothing acknowledged was lost.
# Run it as: syncraft dev -- examples/dev/leader_dies.sh
set -euo pipefail

# Asks one member after the other until one does it: METHOD KEY [VALUE].
request() {
    local url end=$((SECONDS + 60))
    while ((SECONDS < end)); do
        for url in $SYNCRAFT_HTTP_ALL; do
            curl -sf -X "$1" ${3:+--data-binary "$3"} "$url/v1/kv/$2" && return
        done
        sleep 0.1
    done
    echo "no member answers" >&2
    return 1
}

for i in {1..40}; do
    request PUT "item-$i" "value $i" >/dev/null
    if ((i == 20)); then
        curl -sSf -X POST "$SYNCRAFT_DEV/v1/dev/kill?member=leader"
    fi
done

for i in {1..40}; do
    found=$(request GET "item-$i")
    [ "$found" = "value $i" ] || { echo "item-$i is lost" >&2 && exit 1; }
done
echo "40 writes were acknowledged, and none is lost"
