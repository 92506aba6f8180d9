#!/usr/bin/env bash
# Upgrades a cluster of the last version, member by member, under load.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/acceptance/upgrade.sh`.
set -euo pipefail

# The last commit whose members know nothing of configurations.
LAST=b766a5f

usage() {
    cat <<'USAGE'
usage: scripts/acceptance/upgrade.sh

Builds the last version from the repository's history, starts three members of it, and replaces
their programs by this version's, one after another, while eight clients write. On the way, one
member goes back to the last version and forth again, and a member of each version is killed. Checks
that every acknowledged write is there, and none took effect twice; that the cluster serves when two
members are of one version and one of the other, in both ways; that it keeps its id; that nothing
which the last version does not know is used before all members know it; and that from then on a
program of the last version is refused in words, and members can be added. Needs git and python3.

environment:
  SYNCRAFT_BIN  the binary of this version; without it, one is built
  SYNCRAFT_OLD  the binary of the last version; without it, one is built
USAGE
}

case ${1:-} in
    '') ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
if [ -z "${SYNCRAFT_BIN:-}" ]; then
    cargo build --locked --release --manifest-path "$root/Cargo.toml" --bin syncraft
    SYNCRAFT_BIN=$root/target/release/syncraft
fi
if [ -z "${SYNCRAFT_OLD:-}" ]; then
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' EXIT
    git -C "$root" archive "$LAST" | tar -x -C "$tree"
    cargo build --locked --release --manifest-path "$tree/Cargo.toml" --bin syncraft \
        --target-dir "$root/target/upgrade"
    SYNCRAFT_OLD=$root/target/upgrade/release/syncraft
fi
python3 "$root/scripts/acceptance/upgrade.py" "$SYNCRAFT_OLD" "$SYNCRAFT_BIN"
