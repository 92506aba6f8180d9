#!/usr/bin/env bash
# Shows that a real Prometheus reads the metrics of a cluster: `promtool` finds nothing wrong with
# them, a server scrapes all three members, and sees that one of them is killed and another leads.
#   scripts/acceptance/prometheus.sh
# Prints what passed. Needs Linux, curl, and Debian's package `prometheus`, of which nothing is left
# running. SYNCRAFT_BIN is the syncraft binary to use; without it, one is built.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/acceptance/prometheus.sh`.
set -euo pipefail

say() { printf '%s\n' "$*"; }
die() { printf 'prometheus.sh: %s\n' "$*" >&2; exit 1; }
SECONDS_MAX=60

# Asks Prometheus until its answer to query $1 is $2.
until_told() {
    local answer
    for ((n = 0; n < SECONDS_MAX * 5; n++)); do
        answer=$(curl -fsS --max-time 5 --get --data-urlencode "query=$1" \
            "http://$prometheus/api/v1/query" 2>/dev/null) || answer=
        [[ $answer == *"\"$2\"]}]}}" ]] && return
        sleep 0.2
    done
    die "after $SECONDS_MAX s, $1 is not $2, but: $answer"
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
if [ "${1:-}" != inside ]; then
    for program in curl prometheus promtool; do
        command -v "$program" >/dev/null || die "$program is missing: apt-get install prometheus curl"
    done
    bin=${SYNCRAFT_BIN:-${CARGO_TARGET_DIR:-$root/target}/release/syncraft}
    if [ -z "${SYNCRAFT_BIN:-}" ]; then
        (cd "$root" && cargo build --release --locked --quiet --bin syncraft) || die "the build failed"
    fi
    exec "$bin" dev -- "$root/scripts/acceptance/prometheus.sh" inside
fi

# From here on there is a cluster.
read -ra members <<<"${SYNCRAFT_HTTP_ALL//,/ }"
for member in "${members[@]}"; do
    curl -fsS --max-time 10 "$member/metrics" | promtool check metrics || die "promtool: $member"
done
say "ok: promtool finds nothing wrong with the metrics of ${#members[@]} members"

work=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null; wait; rm -rf "$work"' EXIT
targets=$(printf '"%s",' "${members[@]#http://}")
cat >"$work/prometheus.yml" <<CONFIG
global: { scrape_interval: 1s, scrape_timeout: 1s }
scrape_configs:
  - job_name: syncraft
    static_configs: [{ targets: [${targets%,}] }]
CONFIG
# A free port, as far as can be known.
for port in $(shuf -i 20000-30000 -n 20); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
done
prometheus=127.0.0.1:$port
prometheus --config.file "$work/prometheus.yml" --storage.tsdb.path "$work/data" \
    --web.listen-address "$prometheus" >"$work/log" 2>&1 &
server=$!
until_told 'sum(up{job="syncraft"})' "${#members[@]}"
until_told 'sum(syncraft_is_leader)' 1
say "ok: Prometheus scrapes all members, and one of them leads"

curl -fsS --max-time 20 -X POST "$SYNCRAFT_DEV/v1/dev/kill?member=leader" >/dev/null
until_told 'sum(up{job="syncraft"})' "$((${#members[@]} - 1))"
until_told 'sum(syncraft_is_leader)' 1
say "ok: after the leader was killed, one member is down and another one leads"
