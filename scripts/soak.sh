#!/usr/bin/env bash
# Runs the simulator with fresh seeds on all cores for so many minutes: scripts/soak.sh MINUTES [FIRST_SEED]
# Prints what it has done every ten seconds and at the end. Stops at the first violation, names its seed and says how to
# replay it; the exit status is then not zero. Needs Rust and nothing else.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/soak.sh`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

minutes=${1:?usage: scripts/soak.sh MINUTES [FIRST_SEED]}
# Six random bytes: no two soaks run the same seeds.
from=${2:-$((16#$(od -An -N6 -tx1 /dev/urandom | tr -d ' \n')))}

echo "soaking for $minutes minutes from seed $from"
SYNCRAFT_SIM_MINUTES=$minutes SYNCRAFT_SIM_FROM=$from \
    cargo test --locked --release --test sim -- --exact --nocapture no_seed_breaks_a_promise
