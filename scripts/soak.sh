#!/usr/bin/env bash
# Runs the simulator with fresh seeds on all cores for so many minutes: scripts/soak.sh MINUTES [FIRST_SEED]
# Prints what it has done every ten seconds and at the end. Stops at the first violation, names its seed and says how to
# replay it; the exit status is then not zero. A time of "5s" means seconds. SOAK_PROFILE is the profile of the build (release).
# Needs Rust and nothing else.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/soak.sh`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage="usage: scripts/soak.sh MINUTES|SECONDSs [FIRST_SEED]"
[[ ${1:-} =~ ^([0-9]+)(s?)$ ]] || { echo "$usage" >&2 && exit 2; }
seconds=$((10#${BASH_REMATCH[1]}))
[[ ${BASH_REMATCH[2]} == s ]] || seconds=$((seconds * 60))
# Six random bytes: no two soaks run the same seeds.
from=$((16#$(od -An -N6 -tx1 /dev/urandom | tr -d ' \n')))
from=${2:-$from}

echo "soaking for $seconds seconds from seed $from"
SYNCRAFT_SIM_SECONDS=$seconds SYNCRAFT_SIM_FROM=$from \
    cargo test --locked --workspace --profile "${SOAK_PROFILE:-release}" --test sim -- \
    --exact --nocapture no_seed_breaks_a_promise
