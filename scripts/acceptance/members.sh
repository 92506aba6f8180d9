#!/usr/bin/env bash
# Replaces every member of a cluster under load, and says what its clients noticed.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/acceptance/members.sh`.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: scripts/acceptance/members.sh [syncraft|etcd] [RUNS]

Three members become five, lose two, get two others, and lose the last of the first three, while
eight clients write through etcd's JSON API. At the end, none of the first members and addresses is
left. Prints the longest pause between two acknowledged writes of each run, and the median (RUNS is
5 by default). Exits with 1 if an acknowledged write is missing, or has taken effect twice, or if
the median pause of syncraft is above 200 ms. Needs python3.

environment:
  SYNCRAFT_BIN  the syncraft binary to use; without it, one is built
  ETCD_DIR      a directory with the program etcd; without it, the one in PATH
USAGE
}

case ${1:-} in -h | --help) usage; exit 0 ;; esac
store=${1:-syncraft} runs=${2:-5}
case $store in syncraft | etcd) ;; *) usage >&2; exit 2 ;; esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
if [ "$store" = syncraft ]; then
    if [ -z "${SYNCRAFT_BIN:-}" ]; then
        cargo build --locked --release --manifest-path "$root/Cargo.toml" --bin syncraft
        SYNCRAFT_BIN=$root/target/release/syncraft
    fi
    program=$SYNCRAFT_BIN
else
    program=${ETCD_DIR:+$ETCD_DIR/}etcd
fi
exec python3 "$root/scripts/acceptance/members.py" "$store" "$program" "$runs"
