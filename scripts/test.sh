#!/usr/bin/env bash
# Everything that must pass before a change is merged. Needs Rust and nothing else; stops at the first failure.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/test.sh`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

run() {
    printf '\n== %s\n' "$*"
    "$@"
}

run cargo fmt --all --check
run cargo clippy --locked --workspace --all-targets -- -D warnings
run cargo test --locked --workspace
# What only people run otherwise: examples, benchmarks and scripts, each as briefly as it can be.
run cargo run --locked --example embedded_cluster
run cargo test --locked --workspace --bench core --bench log --bench store --bench snapshot --bench frames
run cargo test --locked --workspace --bench echo -- --seconds 0.1 --turns 1
run cargo test --locked --workspace --bench fairness -- --calls 20
run env SOAK_PROFILE=test scripts/soak.sh 5s 0
# One bug for the simulator and one for a test.
run scripts/mutants.sh vote_not_persisted answers_while_it_asks
run env RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
printf '\n== all passed\n'
