#!/usr/bin/env bash
# A cluster of syncraft members on this machine, each a process of its own.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: scripts/cluster.sh COMMAND

  start        build if needed, start every member that is not running, wait until a leader serves
  stop         stop every member cleanly
  status       ask every member how it is
  kill ID      end a member at once, as a crash would (kill -9)
  restart ID   stop a member if it runs, and start it again
  pause ID     freeze a member (SIGSTOP)
  resume ID    let a frozen member go on (SIGCONT)
  wipe         remove the data and logs of a cluster that is stopped

environment (kept in DIR/cluster.conf from the first start on):
  NODES        how many members, 1 to 15 (3)
  BASE_PORT    member N listens on 127.0.0.1, port BASE_PORT + N - 1 (7001)
  DIR          data DIR/N, logs DIR/N.log, pids DIR/N.pid (the directory "cluster" beside scripts/)
  SYNCRAFT_BIN a syncraft binary to use instead of building one
USAGE
}

say() { printf '%s\n' "$*"; }
die() { printf 'cluster.sh: %s\n' "$*" >&2; exit 1; }
misuse() { printf 'cluster.sh: %s\n' "$*" >&2; usage >&2; exit 2; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
ready_seconds=30 # How long start and restart wait for a leader.
stop_seconds=10  # How long a member may take to stop before it is killed.

# --- which cluster -------------------------------------------------------------------------------------------------

dir=${DIR:-$root/cluster}
case $dir in /*) ;; *) dir=$PWD/$dir ;; esac
# One spelling, however it was given: members are recognised by it.
if [ -d "$dir" ]; then dir=$(cd "$dir" && pwd -P); fi
conf=$dir/cluster.conf
nodes=${NODES:-3}
base_port=${BASE_PORT:-7001}

# Without a leading zero, which arithmetic would read as octal.
is_number() { case $1 in '' | *[!0-9]* | 0?* | ??????*) return 1 ;; esac }

# The cluster that is in DIR is what it was at its first start: its members' data belongs to those ports.
load_conf() {
    is_number "$nodes" && [ "$nodes" -ge 1 ] && [ "$nodes" -le 15 ] || misuse "NODES is \"$nodes\": a number from 1 to 15"
    is_number "$base_port" && [ "$base_port" -ge 1 ] && [ $((base_port + nodes - 1)) -le 65535 ] ||
        misuse "BASE_PORT is \"$base_port\": it and the next $nodes ports must be from 1 to 65535"
    [ -f "$conf" ] || return 0
    local saved_nodes saved_base_port
    read -r saved_nodes saved_base_port <"$conf" || die "$conf is damaged"
    is_number "$saved_nodes" && is_number "$saved_base_port" || die "$conf is damaged"
    [ -z "${NODES:-}" ] || [ "$nodes" = "$saved_nodes" ] ||
        die "the cluster in $dir has NODES=$saved_nodes, not $nodes: choose another DIR, or wipe it"
    [ -z "${BASE_PORT:-}" ] || [ "$base_port" = "$saved_base_port" ] ||
        die "the cluster in $dir has BASE_PORT=$saved_base_port, not $base_port: choose another DIR, or wipe it"
    nodes=$saved_nodes base_port=$saved_base_port
}

save_conf() {
    mkdir -p "$dir" || die "cannot make $dir"
    dir=$(cd "$dir" && pwd -P) conf=$dir/cluster.conf
    [ -f "$conf" ] || printf '%s %s\n' "$nodes" "$base_port" >"$conf" || die "cannot write $conf"
}

members() {
    local id list=
    for ((id = 1; id <= nodes; id++)); do list+=${list:+,}$id=127.0.0.1:$((base_port + id - 1)); done
    printf '%s' "$list"
}

# --- the binary ----------------------------------------------------------------------------------------------------

bin=${SYNCRAFT_BIN:-${CARGO_TARGET_DIR:-$root/target}/release/syncraft}

build() {
    [ -z "${SYNCRAFT_BIN:-}" ] || return 0
    if command -v cargo >/dev/null; then
        local quiet=--quiet
        if [ ! -x "$bin" ]; then
            quiet=
            say "building: the first time takes a few minutes"
        fi
        (cd "$root" && cargo build --release --locked $quiet --bin syncraft) || die "the build failed"
    fi
}

need_bin() { [ -x "$bin" ] || die "there is no $bin: is Rust (cargo) installed, or SYNCRAFT_BIN right?"; }

# --- one member ----------------------------------------------------------------------------------------------------

command_line() { # PID
    if [ -r "/proc/$1/cmdline" ]; then
        tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null || true
    else
        ps -ww -o args= -p "$1" 2>/dev/null || true
    fi
}

# The pid of member $1 in $pid, or failure. A pid file may outlive its process, and its number may be another's by now: the
# process must be this very member.
find_pid() {
    pid=
    [ -f "$dir/$1.pid" ] || return 1
    read -r pid <"$dir/$1.pid" || true
    case $pid in '' | *[!0-9]*) return 1 ;; esac
    kill -0 "$pid" 2>/dev/null || return 1
    case $(command_line "$pid") in
        *" server --id $1 "*" --data-dir $dir/$1 "* | *" server --id $1 "*" --data-dir $dir/$1") return 0 ;;
    esac
    return 1
}

launch() { # ID
    local detach=nohup
    if command -v setsid >/dev/null; then detach=setsid; fi
    # Where this run's lines begin: a member that fails is quoted from there.
    log_offset[$1]=$(wc -c 2>/dev/null <"$dir/$1.log" || echo 0)
    "$detach" "$bin" server --id "$1" --members "$(members)" --data-dir "$dir/$1" \
        </dev/null >>"$dir/$1.log" 2>&1 &
    printf '%s\n' "$!" >"$dir/$1.pid"
    launched[$1]=$!
}

# Whether a member that was launched is still there. Between fork and exec it is not yet recognisable by its command line.
is_up() { kill -0 "${launched[$1]}" 2>/dev/null; }

last_words() { # ID
    local lines
    lines=$(tail -c "+$((log_offset[$1] + 1))" "$dir/$1.log" 2>/dev/null | grep -v '^[[:space:]]*$' || true)
    grep '^syncraft: ' <<<"$lines" | tail -n 1 || tail -n 3 <<<"$lines"
}

# Waits until a leader serves; fails as soon as a member that was launched is gone.
wait_ready() {
    local deadline=$((SECONDS + ready_seconds)) id
    until "$bin" wait-ready --members "$(members)" --timeout 500ms 2>/dev/null; do
        check_launched
        [ "$SECONDS" -lt "$deadline" ] || die "no leader serves after $ready_seconds s; the logs are in $dir"
    done
    check_launched
}

check_launched() {
    local id failed=
    for id in "${!launched[@]}"; do
        is_up "$id" && continue
        failed+=" $id"
        printf 'cluster.sh: member %s did not start:\n%s\n' "$id" "$(last_words "$id")" >&2
        rm -f "$dir/$id.pid"
    done
    [ -z "$failed" ] || die "see $dir/N.log of member(s)$failed; the others were left as they are (cluster.sh stop ends them)"
}

# SIGTERM to all that are given, a bounded wait, then kill -9.
end_members() {
    local id deadline=$((SECONDS + stop_seconds)) running=()
    for id in "$@"; do
        find_pid "$id" || continue
        running+=("$id")
        # A frozen process takes no SIGTERM until it goes on.
        kill -TERM "$pid" 2>/dev/null || true
        kill -CONT "$pid" 2>/dev/null || true
    done
    for id in ${running[@]+"${running[@]}"}; do
        while find_pid "$id" && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.05; done
        if find_pid "$id"; then
            say "member $id did not stop within $stop_seconds s: killed"
            kill -KILL "$pid" 2>/dev/null || true
            wait_gone "$id"
        fi
    done
    for id in "$@"; do rm -f "$dir/$id.pid"; done
}

wait_gone() { # ID
    local deadline=$((SECONDS + stop_seconds))
    while find_pid "$1" && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.05; done
}

need_id() {
    [ $# -eq 1 ] || misuse "which member? Give its id"
    is_number "$1" && [ "$1" -ge 1 ] && [ "$1" -le "$nodes" ] ||
        misuse "\"$1\" is not a member: 1 to $nodes"
}

need_running() { find_pid "$1" || die "member $1 is not running"; }

signal() { # SIGNAL ID
    need_running "$2"
    kill "-$1" "$pid" || die "member $2 cannot be signalled"
}

# --- commands ------------------------------------------------------------------------------------------------------

all_ids() { local id; for ((id = 1; id <= nodes; id++)); do printf '%s ' "$id"; done; }

how_to_talk() {
    say "  export SYNCRAFT_MEMBERS=$(members)"
    say "  $(printf '%q' "$bin") put greeting hello"
    say "  $(printf '%q' "$bin") get greeting"
}

start() {
    build
    need_bin
    save_conf
    local id absent=()
    for id in $(all_ids); do find_pid "$id" || absent+=("$id"); done
    if [ ${#absent[@]} -eq 0 ]; then
        say "already running: $nodes members in $dir"
    else
        for id in "${absent[@]}"; do launch "$id"; done
        wait_ready
        say "serving: $nodes members in $dir"
    fi
    how_to_talk
}

stop() {
    # shellcheck disable=SC2046 # Numbers, to be split.
    end_members $(all_ids)
    say "stopped"
}

status() {
    need_bin
    local id
    for id in $(all_ids); do
        if find_pid "$id"; then say "member $id: process $pid"; else say "member $id: not running"; fi
    done
    "$bin" status --members "$(members)"
}

restart() { # ID
    [ -f "$conf" ] || die "there is no cluster in $dir: cluster.sh start"
    build
    need_bin
    end_members "$1"
    launch "$1"
    local id running=0
    for id in $(all_ids); do if [ "$id" = "$1" ] || find_pid "$id"; then running=$((running + 1)); fi; done
    if [ "$running" -gt $((nodes / 2)) ]; then
        wait_ready
        say "member $1 is running, the cluster serves"
    else
        # It cannot serve yet, but a member that cannot start says so within moments.
        sleep 0.5
        check_launched
        say "member $1 is running; $running of $nodes are too few to serve"
    fi
}

wipe() {
    local id
    for id in $(all_ids); do
        if find_pid "$id"; then die "member $id is running: cluster.sh stop, then wipe"; fi
    done
    if [ ! -f "$conf" ]; then
        say "nothing to wipe in $dir"
        return
    fi
    for id in $(all_ids); do rm -rf "${dir:?}/$id" "$dir/$id.log" "$dir/$id.pid"; done
    rm -f "$conf"
    # What else is in there is not ours.
    rmdir "$dir" 2>/dev/null || true
    say "wiped $dir"
}

declare -a launched=() log_offset=()
[ $# -ge 1 ] || misuse "which command?"
command=$1
shift
case $command in
    -h | --help | help) usage; exit 0 ;;
    start | stop | status | wipe) [ $# -eq 0 ] || misuse "$command takes no arguments" ;;
    kill | restart | pause | resume) ;;
    *) misuse "unknown command \"$command\"" ;;
esac
load_conf
case $command in
    start) start ;;
    stop) stop ;;
    status) status ;;
    wipe) wipe ;;
    kill) need_id "$@"; signal KILL "$1"; wait_gone "$1"; rm -f "$dir/$1.pid"; say "member $1 is killed" ;;
    restart) need_id "$@"; restart "$1" ;;
    pause) need_id "$@"; signal STOP "$1"; say "member $1 is paused" ;;
    resume) need_id "$@"; signal CONT "$1"; say "member $1 goes on" ;;
esac
