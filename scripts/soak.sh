#!/usr/bin/env bash
# Runs the simulator with fresh seeds on all cores:
#   scripts/soak.sh MINUTES|SECONDSs [FIRST_SEED]
# It prints its progress every ten seconds, and a summary at the end. At the first violation it
# stops, names the seed, says how to replay it, and exits with a status other than 0. SOAK_PROFILE
# is the cargo profile of the build (default: release). Needs only Rust.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/soak.sh`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage="usage: scripts/soak.sh MINUTES|SECONDSs [FIRST_SEED]"
[[ ${1:-} =~ ^([0-9]+)(s?)$ ]] || { echo "$usage" >&2 && exit 2; }
seconds=$((10#${BASH_REMATCH[1]}))
[[ ${BASH_REMATCH[2]} == s ]] || seconds=$((seconds * 60))
# Six random bytes, so that no two soaks run the same seeds.
from=$((16#$(od -An -N6 -tx1 /dev/urandom | tr -d ' \n')))
from=${2:-$from}

echo "soaking for $seconds seconds from seed $from"
SYNCRAFT_SIM_SECONDS=$seconds SYNCRAFT_SIM_FROM=$from \
    cargo test --locked --workspace --profile "${SOAK_PROFILE:-release}" --test sim -- \
    --exact --nocapture no_seed_breaks_a_promise
