#!/usr/bin/env bash
# Measures the store over HTTP beside etcd's JSON gateway: puts and gets per second over 64
# connections, by wrk.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/http-load.sh`.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: scripts/http-load.sh [--runs N] [--seconds N] [--connections N]

Starts three members of syncraft and three of etcd on this machine, puts load on the leader of each
in turns, and prints a table. Removes the data. Needs Linux, curl, wrk (apt-get install wrk) and
etcd. Run nothing else meanwhile.

  --runs N         each number is the median of N runs (default 5)
  --seconds N      length of a run (default 5)
  --connections N  each makes one request after the other (default 64)

environment:
  ETCD_DIR      a directory with the program etcd; without it, the one in PATH
  SYNCRAFT_BIN  the syncraft binary to use; without it, one is built
  TMPDIR        where the data is
USAGE
}

die() { printf 'http-load.sh: %s\n' "$*" >&2; exit 1; }

export LC_ALL=C
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
runs=5 seconds=5 connections=64 keys=1000 size=256
while [ $# -gt 0 ]; do
    case $1 in
        --runs | --seconds | --connections)
            [[ ${2:-} =~ ^[1-9][0-9]{0,4}$ ]] || { usage >&2; exit 2; }
            declare "${1#--}=$2"
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

bin=${SYNCRAFT_BIN:-${CARGO_TARGET_DIR:-$root/target}/release/syncraft}
if [ -z "${SYNCRAFT_BIN:-}" ]; then
    (cd "$root" && cargo build --release --locked --quiet --bin syncraft) || die "the build failed"
fi
etcd=${ETCD_DIR:+$ETCD_DIR/}etcd
for program in "$bin" "$etcd" curl wrk; do
    command -v "$program" >/dev/null || die "there is no $program"
done

work=$(mktemp -d)
started=()
stop() {
    kill "${started[@]}" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap stop EXIT

# --- the two clusters -----------------------------------------------------------------------------

# Ports that nothing listens on, as far as can be known: 12 in a row.
for ((first = 20000 + RANDOM % 10000; ; first += 12)); do
    for ((port = first; port < first + 12; port++)); do
        ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || continue 2
    done
    break
done
at() { echo "127.0.0.1:$((first + $1))"; }

members="1=$(at 0),2=$(at 1),3=$(at 2)"
initial="m1=http://$(at 6),m2=http://$(at 7),m3=http://$(at 8)"
for n in 1 2 3; do
    "$bin" server --id $n --members "$members" --data-dir "$work/syncraft-$n" \
        --http "$(at $((n + 2)))" >"$work/syncraft-$n.log" 2>&1 &
    started+=($!)
    "$etcd" --name m$n --data-dir "$work/etcd-$n" --quota-backend-bytes $((8 << 30)) \
        --listen-peer-urls "http://$(at $((n + 5)))" --log-level error \
        --initial-advertise-peer-urls "http://$(at $((n + 5)))" --initial-cluster "$initial" \
        --listen-client-urls "http://$(at $((n + 8)))" \
        --advertise-client-urls "http://$(at $((n + 8)))" >"$work/etcd-$n.log" 2>&1 &
    started+=($!)
done

leader_of_syncraft() {
    for n in 3 4 5; do
        [[ $(curl -fs --max-time 2 "$(at $n)/status") != *'"role":"leader"'* ]] || echo "$(at $n)"
    done
}
leader_of_etcd() {
    local status leader='"leader":"([0-9]+)"' member='"member_id":"([0-9]+)"'
    for n in 9 10 11; do
        status=$(curl -fs --max-time 2 -d '{}' "$(at $n)/v3/maintenance/status") || continue
        [[ $status =~ $leader ]] && leads=${BASH_REMATCH[1]}
        [[ $status =~ $member ]] && [ "${leads:-}" = "${BASH_REMATCH[1]}" ] && echo "$(at $n)"
    done
    return 0
}
for side in syncraft etcd; do
    for ((tries = 0; tries < 300; tries++)); do
        leader=$(leader_of_$side || true)
        [ -z "$leader" ] || break
        sleep 0.1
    done
    [ -n "$leader" ] || die "$side has no leader: $(tail -n 3 "$work/$side"-*.log)"
    declare "leader_$side=$leader"
done

# --- the load -------------------------------------------------------------------------------------

# etcd's keys and values are base64.
cat >"$work/load.lua" <<LUA
local digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local function base64(text)
  local out = {}
  for at = 1, #text, 3 do
    local a, b, c = text:byte(at, at + 2)
    local n = a * 65536 + (b or 0) * 256 + (c or 0)
    for place = 0, 3 do
      local digit = math.floor(n / 64 ^ (3 - place)) % 64
      local is_pad = (place == 2 and not b) or (place == 3 and not c)
      out[#out + 1] = is_pad and "=" or digits:sub(digit + 1, digit + 1)
    end
  end
  return table.concat(out)
end
local what, value = os.getenv("LOAD"), string.rep("v", $size)
local value64 = base64(value)
local requests, at = {}, 0
local function made(n)
  local key = string.format("key-%05d", n)
  if what == "syncraft put" then return wrk.format("PUT", "/v1/kv/" .. key, nil, value) end
  if what == "syncraft get" then return wrk.format("GET", "/v1/kv/" .. key) end
  local body = '{"key":"' .. base64(key) .. '"'
  if what == "etcd put" then
    return wrk.format("POST", "/v3/kv/put", nil, body .. ',"value":"' .. value64 .. '"}')
  end
  return wrk.format("POST", "/v3/kv/range", nil, body .. "}")
end
function init() for n = 1, $keys do requests[n] = made(n) end end
function request() at = at % $keys + 1; return requests[at] end
function done(summary, latency)
  local errors = summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.timeout + summary.errors.status
  io.stderr:write(string.format("%.0f %.2f %.2f %d\n", summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, errors))
end
LUA

# Prints "requests-per-second p50-ms p99-ms" of one run, after the check that none has failed.
load() {
    local side=$1 what=$2 leader rate p50 p99 errors
    leader=leader_$side
    read -r rate p50 p99 errors < <(LOAD="$side $what" wrk -t 2 -c "$connections" -d "${seconds}s" \
        -s "$work/load.lua" "http://${!leader}" 2>&1 >/dev/null | tail -n 1)
    [ "$errors" = 0 ] || die "$errors requests of \"$side $what\" have failed"
    echo "$rate $p50 $p99"
}

# The median of the first column in file $1, with lowest and highest, and the medians of the others.
row() {
    local rates p50 p99 middle=$(((runs + 1) / 2))
    rates=$(cut -d' ' -f1 "$1" | sort -n)
    p50=$(cut -d' ' -f2 "$1" | sort -n | sed -n "${middle}p")
    p99=$(cut -d' ' -f3 "$1" | sort -n | sed -n "${middle}p")
    echo "$(sed -n "${middle}p" <<<"$rates") ($(head -n1 <<<"$rates") to $(tail -n1 <<<"$rates")); $p50, $p99 ms"
}

for side in syncraft etcd; do
    load $side put >/dev/null # So that the keys are there.
done
for ((run = 0; run < runs; run++)); do
    for what in put get; do
        for side in syncraft etcd; do
            load $side $what >>"$work/$side-$what"
        done
    done
done
version=$("$etcd" --version | sed -n 's/etcd Version: //p')
echo "Requests per second over $connections connections, $size bytes: the median of $runs runs of"
echo "$seconds s, in turns (the lowest to the highest); then the latency, median and 99th percentile."
echo
echo "| | syncraft, \`/v1/kv\` | etcd $version, JSON gateway | ratio |"
echo "| --- | ---: | ---: | ---: |"
for what in put get; do
    ours=$(row "$work/syncraft-$what") theirs=$(row "$work/etcd-$what")
    ratio=$(awk -v a="${ours%% *}" -v b="${theirs%% *}" 'BEGIN { printf "%.2f", a / b }')
    echo "| $what | $ours | $theirs | $ratio |"
done
