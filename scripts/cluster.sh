#!/usr/bin/env bash
# Runs a cluster of syncraft members on this machine, each as a process of its own.
#
# It reports what the members themselves report: a member serves when its own process answers at its
# port, whatever else may listen there. It finds members by their command lines, not by pid files,
# which may be gone.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/cluster.sh`.
set +o posix                                      # For a `sh` that is bash.
set -euo pipefail
# These would apply to every member, but are settings of a single one.
unset CDPATH SYNCRAFT_ID SYNCRAFT_LISTEN SYNCRAFT_DATA_DIR
# Failed writes are handled where they happen. Without this, a reader of the output that has gone
# away (`| head`) or a limit on the size of files would end the script or its members.
trap '' PIPE XFSZ

usage() {
    cat <<'USAGE'
usage: scripts/cluster.sh COMMAND

  start        build if needed, start every member that is not running, wait until a leader serves
  stop         stop every member cleanly
  status       show the state of every member; fails unless a leader serves
  kill ID      end a member at once, as a crash would (kill -9)
  restart ID   stop a member if it is running, then start it
  pause ID     freeze a member (SIGSTOP)
  resume ID    let a frozen member continue (SIGCONT)
  wipe         remove the data and logs of a stopped cluster

environment (the first start writes NODES and BASE_PORT to DIR/cluster.conf; later ones keep them):
  NODES        number of members, 1 to 15 (default 3)
  BASE_PORT    member N listens on 127.0.0.1, port BASE_PORT + N - 1 (default 7001)
  DIR          holds data in DIR/N, logs in DIR/N.log, pids in DIR/N.pid (default: the directory
               "cluster" beside scripts/)
  SYNCRAFT_BIN the syncraft binary to use; without it, one is built
USAGE
}

# If output cannot be written, nobody is there to be told.
say() { printf '%s\n' "$*" 2>/dev/null || true; }
complain() { printf 'cluster.sh: %s\n' "$*" >&2 || true; }
die() { complain "$@"; exit 1; }
misuse() { complain "$@"; usage >&2 || true; exit 2; }

# Runs a command. If it fails, prints SENTENCE and the system's error message, and exits.
try() { # SENTENCE COMMAND...
    local sentence=$1 why
    shift
    why=$("$@" 2>&1) || die "$sentence${why:+: ${why##*: }}"
}
# If the write fails, no empty file is left behind.
write() { printf '%s\n' "$2" >"$1" || { rm -f "$1" && return 1; }; } # FILE LINE
touch_end() { : >>"$1"; }                                            # FILE

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
ready_seconds=30 # How long start and restart wait for the members, and then for a leader.
stop_seconds=10  # How long a member may take to stop before it is killed.

# --- which cluster --------------------------------------------------------------------------------

dir=${DIR:-$root/cluster}
case $dir in /*) ;; *) dir=$PWD/$dir ;; esac
while [ "${dir%/}" != "$dir" ] && [ "$dir" != / ]; do dir=${dir%/}; done
is_link=
if [ -L "$dir" ]; then is_link=yes; fi

# Gives DIR one spelling, because members are recognised by it. A directory that is gone may still
# have running members.
resolve_dir() {
    local parent
    if [ -d "$dir" ]; then
        dir=$(cd "$dir" 2>/dev/null && pwd -P) || die "cannot enter $dir"
    elif parent=$(cd "$(dirname "$dir")" 2>/dev/null && pwd -P); then
        dir=${parent%/}/$(basename "$dir")
    fi
    conf=$dir/cluster.conf
}
resolve_dir
nodes=${NODES:-3}
base_port=${BASE_PORT:-7001}

# No leading zero: arithmetic would read the number as octal.
is_number() { case $1 in '' | *[!0-9]* | 0?* | ??????*) return 1 ;; esac }

# A cluster keeps the NODES and BASE_PORT of its first start: its members' data belongs to those
# ports.
load_conf() {
    is_number "$nodes" && [ "$nodes" -ge 1 ] && [ "$nodes" -le 15 ] || misuse "NODES is \"$nodes\": a number from 1 to 15"
    is_number "$base_port" && [ "$base_port" -ge 1 ] && [ $((base_port + nodes - 1)) -le 65535 ] ||
        misuse "BASE_PORT is \"$base_port\": it and the next $nodes ports must be from 1 to 65535"
    [ -f "$conf" ] || return 0
    local saved_nodes saved_base_port
    { read -r saved_nodes saved_base_port <"$conf"; } 2>/dev/null || die "$conf is damaged, or cannot be read"
    is_number "$saved_nodes" && is_number "$saved_base_port" || die "$conf is damaged"
    [ -z "${NODES:-}" ] || [ "$nodes" = "$saved_nodes" ] ||
        die "the cluster in $dir has NODES=$saved_nodes, not $nodes: choose another DIR, or wipe it"
    [ -z "${BASE_PORT:-}" ] || [ "$base_port" = "$saved_base_port" ] ||
        die "the cluster in $dir has BASE_PORT=$saved_base_port, not $base_port: choose another DIR, or wipe it"
    nodes=$saved_nodes base_port=$saved_base_port
}

save_conf() {
    local target=$dir
    # DIR is a link to a directory that does not exist: make that directory.
    if [ -L "$dir" ] && [ ! -e "$dir" ]; then
        target=$(readlink "$dir")
        case $target in /*) ;; *) target=$(dirname "$dir")/$target ;; esac
    fi
    try "cannot make $target" mkdir -p "$target"
    resolve_dir
    [ ! -f "$conf" ] || return 0
    # Renamed into place, so that it is either complete or absent.
    try "cannot write $conf" write "$conf.new" "$nodes $base_port"
    try "cannot write $conf" mv "$conf.new" "$conf"
}

addr() { printf '127.0.0.1:%s' $((base_port + $1 - 1)); } # ID

members() {
    local id list=
    for ((id = 1; id <= nodes; id++)); do list+=${list:+,}$id=$(addr "$id"); done
    printf '%s' "$list"
}

# --- the binary -----------------------------------------------------------------------------------

bin=${SYNCRAFT_BIN:-${CARGO_TARGET_DIR:-$root/target}/release/syncraft}

build() {
    [ -z "${SYNCRAFT_BIN:-}" ] || return 0
    if command -v cargo >/dev/null; then
        local quiet=--quiet
        if [ ! -x "$bin" ]; then
            quiet=
            say "building: this takes a few minutes the first time"
        fi
        (cd "$root" && cargo build --release --locked $quiet --bin syncraft) || die "the build failed"
    fi
}

need_bin() { [ -x "$bin" ] || die "there is no $bin: install Rust (cargo), or correct SYNCRAFT_BIN"; }

# --- one member -----------------------------------------------------------------------------------

# Sets running[ID] to the processes of each member whose data is in DIR. Finds them by their command
# lines: pid files may be missing, or name other processes by now.
look() {
    local file pid args id
    running=()
    if [ -r /proc/self/cmdline ]; then
        # One grep over all processes, then a closer look at those that name DIR.
        for file in $(grep -lF -e "$dir/" /proc/[0-9]*/cmdline 2>/dev/null); do
            pid=${file#/proc/} pid=${pid%/cmdline}
            look_at "$pid"
        done
    else
        while read -r pid args; do
            for ((id = 1; id <= 15; id++)); do
                case "$args " in *" server --id $id "*" --data-dir $dir/$id "*) found "$id" "$pid" ;; esac
            done
        done < <(ps -A -ww -o pid= -o args=)
    fi
}

look_at() { # PID
    local words=() word i id='' data=''
    { while IFS= read -r -d '' word; do words+=("$word"); done <"/proc/$1/cmdline"; } 2>/dev/null || true
    [ "${words[1]:-}" = server ] || return 0
    for ((i = 2; i + 1 < ${#words[@]}; i++)); do
        case ${words[i]} in
            --id) id=${words[i + 1]} ;;
            --data-dir) data=${words[i + 1]} ;;
        esac
    done
    if is_number "$id" && [ "$data" = "$dir/$id" ]; then found "$id" "$1"; fi
}

found() { running[$1]="${running[$1]:-}${running[$1]:+ }$2"; } # ID PID

# Sets said[ID] to the pid that each member's port reports.
ask() {
    local json id answer
    said=()
    json=$("$bin" status --json --members "$(members)" --timeout 1s 2>/dev/null) || true
    for id in $(all_ids); do
        answer="\"addr\":\"$(addr "$id")\",\"reachable\":true[^{}]*\"pid\":([0-9]+)"
        if [[ $json =~ $answer ]]; then said[id]=${BASH_REMATCH[1]}; fi
    done
}

# Fails if a port of this cluster is served by a member of another one.
check_ports() {
    local id
    ask
    look
    for id in "${!said[@]}"; do
        case " ${running[$id]:-} " in
            *" ${said[$id]} "*) ;;
            *) die "$(addr "$id") is served by process ${said[$id]}, which is not member $id of the cluster in $dir: choose another BASE_PORT, or stop it" ;;
        esac
    done
}

launch() { # ID
    local detach=nohup log=$dir/$1.log
    if command -v setsid >/dev/null; then detach=setsid; fi
    try "cannot write $log" touch_end "$log"
    # Where this run's log lines begin: last_words quotes from there.
    log_offset[$1]=0
    if [ -f "$log" ]; then log_offset[$1]=$(wc -c <"$log"); fi
    try "cannot write $dir/$1.pid" write "$dir/$1.pid" starting
    # The shell writes its pid before it becomes the member, so every running member has a pid file.
    sh -c 'printf "%s\n" "$$" >"$1" && shift && exec "$@"' sh "$dir/$1.pid" \
        "$detach" "$bin" server --id "$1" --members "$(members)" --data-dir "$dir/$1" \
        </dev/null >>"$log" 2>&1 &
    launched[$1]=$!
}

# Whether a launched member is still running. Between fork and exec, its command line does not tell.
is_up() { kill -0 "${launched[$1]}" 2>/dev/null; }

last_words() { # ID
    local lines
    # A log may be a link to a device, which may be endless.
    lines=$([ -f "$dir/$1.log" ] && tail -c "+$((log_offset[$1] + 1))" "$dir/$1.log" 2>/dev/null | grep -v '^[[:space:]]*$') ||
        lines="it said nothing: is there room left in $dir?"
    printf '%s\n' "$lines" | grep '^syncraft: ' | tail -n 1 || printf '%s\n' "$lines" | tail -n 3
}

# Waits until every launched member has answered at its port. Fails if one of them ends.
wait_launched() {
    local deadline=$((SECONDS + ready_seconds)) id waiting
    while ask; do
        waiting=
        for id in "${!launched[@]}"; do
            if is_up "$id" && [ "${said[$id]:-}" != "${launched[$id]}" ]; then waiting+=" $id"; fi
        done
        [ -n "$waiting" ] && [ "$SECONDS" -lt "$deadline" ] || break
        sleep 0.05
    done
    check_launched
    [ -z "$waiting" ] || die "member(s)$waiting are running but did not answer within $ready_seconds s; the logs are in $dir"
}

check_launched() {
    local id failed=
    for id in "${!launched[@]}"; do
        is_up "$id" && continue
        failed+=" $id"
        complain "member $id did not start: $(last_words "$id")"
        rm -f "$dir/$id.pid"
    done
    [ -n "$failed" ] || return 0
    look
    local ids="${!running[*]}"
    die "see $dir/N.log of member(s)$failed; running members: ${ids:-none}"
}

# Waits until a leader serves. Fails as soon as a launched member ends.
wait_ready() {
    local deadline=$((SECONDS + ready_seconds)) why
    until why=$("$bin" wait-ready --members "$(members)" --timeout 500ms 2>&1); do
        check_launched
        [ "$SECONDS" -lt "$deadline" ] || die "no leader serves after $ready_seconds s (${why#syncraft: }); the logs are in $dir"
    done
    check_launched
    check_ports
}

# Sends SIGTERM to the given members, waits for a bounded time, then kills them.
end_members() { # ID...
    local id
    # A frozen process handles SIGTERM only after it continues.
    send TERM "$@"
    send CONT "$@"
    if ! wait_gone "$@"; then
        for id in "$@"; do
            [ -z "${running[$id]:-}" ] || say "member $id did not stop within $stop_seconds s: killed"
        done
        send KILL "$@"
        wait_gone "$@" || die "these processes were killed but still exist: ${running[*]}"
    fi
    for id in "$@"; do rm -f "$dir/$id.pid"; done
}

send() { # SIGNAL ID...
    local signal=$1 id pid
    shift
    look
    for id in "$@"; do
        for pid in ${running[$id]:-}; do
            kill "-$signal" "$pid" 2>/dev/null && continue
            # The process may have ended in the meantime.
            look
            case " ${running[$id]:-} " in
                *" $pid "*) die "process $pid, member $id, cannot be signalled: is it another user's?" ;;
            esac
        done
    done
}

# Waits for a bounded time until none of these runs. Fails if one still does.
wait_gone() { # ID...
    local id deadline=$((SECONDS + stop_seconds))
    for id in "$@"; do
        while is_running "$id"; do
            [ "$SECONDS" -lt "$deadline" ] || return 1
            sleep 0.05
        done
    done
}

is_running() { look && [ -n "${running[$1]:-}" ]; } # ID

need_id() {
    [ $# -eq 1 ] || misuse "give the id of one member"
    is_number "$1" && [ "$1" -ge 1 ] && [ "$1" -le "$nodes" ] ||
        misuse "there is no member \"$1\": give an id from 1 to $nodes"
}

need_running() { is_running "$1" || die "member $1 is not running"; }

need_cluster() { [ -f "$conf" ] || die "there is no cluster in $dir: cluster.sh start"; }

signal() { # SIGNAL ID
    need_running "$2"
    send "$1" "$2"
}

# --- commands -------------------------------------------------------------------------------------

all_ids() { local id; for ((id = 1; id <= nodes; id++)); do printf '%s ' "$id"; done; }

how_to_talk() {
    say "  export SYNCRAFT_MEMBERS=$(members)"
    say "  $(printf '%q' "$bin") put greeting hello"
    say "  $(printf '%q' "$bin") get greeting"
}

start() {
    build
    need_bin
    # Checked before anything is written or started.
    check_ports
    save_conf
    local id
    for id in $(all_ids); do is_running "$id" || launch "$id"; done
    wait_launched
    wait_ready
    if [ ${#launched[@]} -eq 0 ]; then
        say "already running: $nodes members in $dir"
    else
        say "serving: $nodes members in $dir"
    fi
    how_to_talk
}

stop() {
    # This includes members that cluster.conf does not know.
    look
    if [ ${#running[@]} -gt 0 ]; then end_members "${!running[@]}"; fi
    say "stopped"
}

status() {
    need_bin
    local id code=0
    look
    [ ${#running[@]} -gt 0 ] || need_cluster
    for id in $(all_ids); do
        if [ -n "${running[$id]:-}" ]; then say "member $id: process ${running[$id]}"; else say "member $id: not running"; fi
    done
    "$bin" status --members "$(members)" || code=$?
    check_ports
    return "$code"
}

restart() { # ID
    need_cluster
    build
    need_bin
    end_members "$1"
    check_ports
    launch "$1"
    wait_launched
    look
    if [ ${#running[@]} -gt $((nodes / 2)) ]; then
        wait_ready
        say "member $1 is running, the cluster serves"
    else
        say "member $1 is running; ${#running[@]} of $nodes are too few to serve"
    fi
}

wipe() {
    local id
    look
    for id in "${!running[@]}"; do die "member $id is running: cluster.sh stop, then wipe"; done
    if [ ! -f "$conf" ]; then
        say "nothing to wipe in $dir"
        return
    fi
    for id in $(all_ids); do
        # A link to another disk stays; the directory that it leads to is emptied.
        if [ -L "$dir/$id" ] && [ -d "$dir/$id" ]; then
            try "cannot empty $dir/$id" find "$dir/$id/" -mindepth 1 -delete
        else
            try "cannot remove $dir/$id" rm -rf "${dir:?}/$id"
        fi
        try "cannot remove $dir/$id.log" rm -f "$dir/$id.log" "$dir/$id.pid"
    done
    try "cannot remove $conf" rm -f "$conf"
    # Other files in DIR are not ours. A link is still useful.
    if [ -z "$is_link" ]; then rmdir "$dir" 2>/dev/null || true; fi
    say "wiped $dir"
}

declare -a launched=() log_offset=() running=() said=()
[ $# -ge 1 ] || misuse "a command is missing"
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
    kill) need_id "$@"; signal KILL "$1"; wait_gone "$1" || die "member $1 was killed but still exists"; rm -f "$dir/$1.pid"; say "member $1 is killed" ;;
    restart) need_id "$@"; restart "$1" ;;
    pause) need_id "$@"; signal STOP "$1"; say "member $1 is paused" ;;
    resume) need_id "$@"; signal CONT "$1"; say "member $1 continues" ;;
esac
