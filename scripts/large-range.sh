#!/usr/bin/env bash
# Measures what a large read costs others: the latency of puts by 64 clients, alone, beside a client
# that reads all keys again and again, and beside a program that has nothing to do with the store
# and only computes; and the memory of the leader.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/large-range.sh`.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: scripts/large-range.sh [--keys N] [--rate N] [--runs N] [--seconds N]

Starts three members on this machine, writes the keys, and measures puts by 64 clients, in turns:
alone, beside a reader of all keys, and beside a program that only computes. The reader and that
program stand for other machines, so they have the lowest priority. Prints a table, and removes the
data. "p99 of that alone" is the median of the ratios in each turn. Needs Linux, bash 5 and Rust.
Run nothing else meanwhile.

  --keys N     how many keys of 256 bytes are read (default 1000000)
  --rate N     puts per second; 0: as many as the clients can (default 5000)
  --runs N     how often each is measured (default 5)
  --seconds N  length of a run (default 10)

environment:
  BENCH_DIR    directory for the data, on the disk to measure (default: the directory "target"
               beside scripts/)
  SYNCRAFT_BIN the syncraft binary to use; without it, one is built
USAGE
}

say() { printf '%s\n' "$*" >&2; }
die() { printf 'large-range.sh: %s\n' "$*" >&2; exit 1; }

export LC_ALL=C
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
keys=1000000 rate=5000 runs=5 seconds=10 size=256 clients=64
put_keys=10000 # Of the writers: a part of those that are read.

while [ $# -gt 0 ]; do
    case $1 in
        --keys | --rate | --runs | --seconds)
            case ${2:-} in '' | *[!0-9]* | ??????????*) usage >&2; exit 2 ;; esac
            declare "${1#--}=$2"
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
[ "$keys" -gt 0 ] && [ "$runs" -gt 0 ] && [ "$seconds" -gt 0 ] || { usage >&2; exit 2; }

# --- the cluster ----------------------------------------------------------------------------------

bin=${SYNCRAFT_BIN:-${CARGO_TARGET_DIR:-$root/target}/release/syncraft}
if [ -z "${SYNCRAFT_BIN:-}" ]; then
    say "building syncraft"
    (cd "$root" && cargo build --release --locked --quiet --bin syncraft) || die "the build failed"
fi
[ -x "$bin" ] || die "there is no $bin: correct SYNCRAFT_BIN"

mkdir -p "${BENCH_DIR:-$root/target}"
work=$(mktemp -d "$(cd "${BENCH_DIR:-$root/target}" && pwd -P)/large-range.XXXXXX")
# Below the ports that the kernel gives to outgoing connections.
base_port=$((20000 + RANDOM % 12000))
cluster() {
    DIR=$work/cluster BASE_PORT=$base_port SYNCRAFT_BIN=$bin "$root/scripts/cluster.sh" "$@"
}

reader= computer=
cleanup() {
    (end_reader) || true
    end_computer
    cluster stop >/dev/null 2>&1 || true
    rm -rf "${work:?}"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

export SYNCRAFT_MEMBERS=127.0.0.1:$base_port
for port in 1 2; do SYNCRAFT_MEMBERS+=,127.0.0.1:$((base_port + port)); done

# Sets $leader to the pid of the member that leads.
find_leader() {
    local id
    id=$("$bin" status --json | tr '{' '\n' | sed -n 's/^"id":\([0-9]*\),.*"role":"leader".*/\1/p')
    leader=$(cat "$work/cluster/$id.pid") || die "no member leads"
}

memory() { awk -v name="Vm$1:" '$1 == name { print $2 / 1024 }' "/proc/$leader/status"; } # RSS|HWM

# Makes the kernel forget the highest memory so far.
forget_peak() { echo 5 >"/proc/$leader/clear_refs"; }

# --- measurements ---------------------------------------------------------------------------------

# Reads all keys and values until it is told to end. Writes the time of each read, in seconds.
read_all() {
    local begun
    until [ -e "$work/end" ]; do
        begun=$EPOCHREALTIME
        nice -n 19 "$bin" list bench- --timeout 60s >/dev/null
        awk -v from="$begun" -v to="$EPOCHREALTIME" 'BEGIN { print to - from }' >>"$work/reads"
    done
}

# Waits for the reader's last read, so that it does not disturb what is measured next.
end_reader() {
    [ -n "$reader" ] || return 0
    : >"$work/end"
    wait "$reader" || die "a read has failed"
    rm -f "$work/end"
    reader=
}

compute() { exec nice -n 19 awk 'BEGIN { while (1) n++ }'; }

end_computer() {
    [ -n "$computer" ] || return 0
    kill "$computer" && wait "$computer" 2>/dev/null || true
    computer=
}

# Prints a number of the JSON on standard input, in which its name occurs once.
field() { sed -n "s/.*\"$1\": *\([^,}]*\).*/\1/p"; }

declare -A samples=()

measure() { # ROW
    local json metric pace=()
    [ "$rate" = 0 ] || pace=(--rate "$rate")
    forget_peak
    json=$("$bin" bench put --clients "$clients" --value-size "$size" --keys "$put_keys" \
        --seconds "$seconds" ${pace[@]+"${pace[@]}"} --json) || die "the load failed"
    for metric in ops_per_second p50 p99; do
        samples[$1/$metric]+="$(field "$metric" <<<"$json") "
    done
    samples[$1/peak]+="$(memory HWM) "
    say "$1: $(field ops_per_second <<<"$json") puts/s, p99 $(field p99 <<<"$json") µs," \
        "peak $(memory HWM) MiB"
}

# shellcheck disable=SC2086 # Numbers, to be split.
median_of() { # ROW/METRIC [DIVISOR]
    printf '%s\n' ${samples[$1]} | sort -g | awk -v by="${2:-1}" '{ at[NR] = $1 }
        END { printf "%.2f", (at[int((NR + 1) / 2)] + at[int(NR / 2) + 1]) / 2 / by }'
}

# The p99 in each turn, divided by that alone in the same turn.
# shellcheck disable=SC2086 # Numbers, to be split.
count_ratios() { # ROW
    samples[$1/ratio]=$(paste <(printf '%s\n' ${samples[$1/p99]}) \
        <(printf '%s\n' ${samples[alone/p99]}) | awk '{ printf "%s ", $1 / $2 }')
}

print_row() { # ROW
    count_ratios "$1"
    printf '| %s | %.0f | %s | %s | %s | %.0f |\n' "$1" "$(median_of "$1/ops_per_second")" \
        "$(median_of "$1/p50" 1000)" "$(median_of "$1/p99" 1000)" "$(median_of "$1/ratio")" \
        "$(median_of "$1/peak")"
}

cluster start >/dev/null || die "the cluster does not start"
say "writing $keys keys"
"$bin" bench get --keys "$keys" --value-size "$size" --count 1 --warm-up 0s >/dev/null
found=$("$bin" list bench- --keys --timeout 60s | wc -l)
[ "$found" = "$keys" ] || die "there are $found keys in place of $keys"
find_leader
before=$(memory RSS)
: >"$work/reads"
for ((run = 1; run <= runs; run++)); do
    measure alone
    read_all &
    reader=$!
    measure 'beside the reader'
    end_reader
    compute &
    computer=$!
    measure 'beside a program that computes'
    end_computer
done
reads=$(wc -l <"$work/reads")
[ "$reads" -gt 0 ] || die "no read came to its end: give --seconds more"
samples[reads]=$(tr '\n' ' ' <"$work/reads")

printf 'Puts of %s bytes by %s clients; medians of %s runs of %s s.\n' \
    "$size" "$clients" "$runs" "$seconds"
printf 'The reader read %s keys %s times, in %s s (median).\n' "$keys" "$reads" "$(median_of reads)"
printf 'The leader had %.0f MiB with the keys, before the runs.\n\n' "$before"
printf '| | puts/s | p50 ms | p99 ms | p99 of that alone | peak memory of the leader, MiB |\n'
printf '| --- | ---: | ---: | ---: | ---: | ---: |\n'
print_row alone
print_row 'beside the reader'
print_row 'beside a program that computes'
