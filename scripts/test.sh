#!/usr/bin/env bash
# Everything that must pass before a change is merged. Needs Rust and nothing else; stops at the first failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

run() {
    printf '\n== %s\n' "$*"
    "$@"
}

run cargo fmt --check
run cargo clippy --all-targets -- -D warnings
run cargo test
run env RUSTDOCFLAGS="-D warnings" cargo doc --no-deps
printf '\n== all passed\n'
