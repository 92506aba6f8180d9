#!/usr/bin/env bash
# Runs a command with three members of a store that speaks etcd's JSON API, on this machine.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/acceptance/with-store.sh`.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: scripts/acceptance/with-store.sh syncraft|etcd COMMAND [ARG...]

Starts three members on free ports with their data in a temporary directory, runs COMMAND, and stops
them. The exit status is that of COMMAND, whose environment has

  STORE         syncraft or etcd, and STORE_VERSION
  STORE_URL     a follower, such as http://127.0.0.1:20003, and its port alone as STORE_PORT
  STORE_URLS    all members, with spaces between

environment:
  SYNCRAFT_BIN  the syncraft binary to use; without it, one is built
  ETCD_DIR      a directory with the program etcd; without it, the one in PATH
USAGE
}

die() { printf 'with-store.sh: %s\n' "$*" >&2; exit 1; }
SECONDS_MAX=30

# Prints the first of the URLs whose member follows; nothing as long as none does.
follower() {
    local url status leader='"leader":"([0-9]+)"' member='"member_id":"([0-9]+)"'
    for url in "$@"; do
        status=$(curl -fs --max-time 2 -d '{}' "$url/v3/maintenance/status") || continue
        [[ $status =~ $leader ]] || continue
        local leads=${BASH_REMATCH[1]}
        [[ $status =~ $member ]] || continue
        [ "$leads" = "${BASH_REMATCH[1]}" ] || [ "$leads" = 0 ] || { echo "$url"; return; }
    done
}

# Runs the command as soon as the members serve.
inside() {
    read -ra urls <<<"$STORE_URLS"
    for ((tries = 0; tries < SECONDS_MAX * 10; tries++)); do
        STORE_URL=$(follower "${urls[@]}")
        [ -z "$STORE_URL" ] || break
        sleep 0.1
    done
    [ -n "$STORE_URL" ] || die "after $SECONDS_MAX s, no member of $STORE follows another one"
    export STORE_URL STORE_PORT=${STORE_URL##*:}
    "$@"
}

if [ "${1:-}" = inside ]; then
    inside "${@:2}"
    exit
fi
store=${1:-}
case $store in
    syncraft | etcd) ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac
[ $# -ge 2 ] || { usage >&2; exit 2; }
shift
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
self=$root/scripts/acceptance/with-store.sh
command -v curl >/dev/null || die "curl is missing: apt-get install curl"

# Ports that nothing listens on, as far as can be known: 6 in a row.
for ((first = 20000 + RANDOM % 10000; ; first += 6)); do
    for ((port = first; port < first + 6; port++)); do
        ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || continue 2
    done
    break
done
at() { echo "http://127.0.0.1:$((first + $1))"; }
export STORE=$store STORE_URLS STORE_VERSION
STORE_URLS="$(at 0) $(at 1) $(at 2)"

if [ "$store" = syncraft ]; then
    bin=${SYNCRAFT_BIN:-${CARGO_TARGET_DIR:-$root/target}/release/syncraft}
    if [ -z "${SYNCRAFT_BIN:-}" ]; then
        (cd "$root" && cargo build --release --locked --quiet --bin syncraft) || die "the build failed"
    fi
    command -v "$bin" >/dev/null || die "there is no $bin"
    STORE_VERSION=$("$bin" --version | awk '{ print $2 }')
    exec "$bin" dev --etcd "$first" -- "$self" inside "$@"
fi

etcd=${ETCD_DIR:+$ETCD_DIR/}etcd
command -v "$etcd" >/dev/null || die "there is no $etcd: set ETCD_DIR"
STORE_VERSION=$("$etcd" --version | sed -n 's/etcd Version: //p')
work=$(mktemp -d)
started=()
stop() {
    kill "${started[@]}" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap stop EXIT
initial="m0=$(at 3),m1=$(at 4),m2=$(at 5)"
for n in 0 1 2; do
    "$etcd" --name m$n --data-dir "$work/$n" --log-level error --initial-cluster "$initial" \
        --listen-client-urls "$(at $n)" --advertise-client-urls "$(at $n)" \
        --listen-peer-urls "$(at $((n + 3)))" --initial-advertise-peer-urls "$(at $((n + 3)))" \
        >"$work/log-$n" 2>&1 &
    started+=($!)
done
"$self" inside "$@" || exit
