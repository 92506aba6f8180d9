#!/usr/bin/env bash
# Runs everything that must pass before a change is merged. Stops at the first failure. Needs Rust
# and nothing else.
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
# Examples, benchmarks and scripts, each as briefly as possible: no test runs them.
run cargo run --locked --example embedded_cluster
run cargo test --locked --workspace --bench core --bench log --bench store --bench snapshot --bench frames
run cargo test --locked --workspace --bench echo -- --seconds 0.1 --turns 1
run cargo test --locked --workspace --bench fairness -- --calls 20
run env SOAK_PROFILE=test scripts/soak.sh 5s 0
# One bug that the simulator must catch, and one that a test must catch.
run scripts/mutants.sh vote_not_persisted answers_while_it_asks
run env RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
printf '\n== all passed\n'
