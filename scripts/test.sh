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
run env RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
printf '\n== all passed\n'
