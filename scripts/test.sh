#!/usr/bin/env bash
# Runs everything that must pass before a change is merged. Stops at the first failure. Needs only
# Rust.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/test.sh`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Runs a step, after a line with the seconds since the start.
run() {
    printf '\n== %s s: %s\n' "$SECONDS" "$*"
    "$@"
}

# Counts the crates that a program compiles if it uses the packages and features selected by the
# arguments after $1: at most $1, and none that belongs to the server or the command.
check_tree() {
    local most=$1 tree count
    shift
    tree=$(cargo tree --locked --target x86_64-unknown-linux-gnu -e normal --prefix none \
        --format '{p}' "$@" | sed 's/ (.*//' | sort -u)
    count=$(wc -l <<<"$tree")
    echo "$count crates, at most $most: $*"
    ((count <= most)) || { echo "too many:" >&2 && echo "$tree" >&2 && return 1; }
    ! grep -E '^(clap|syncraft-raft|imbl|crc32c|env_logger) ' <<<"$tree" \
        || { echo "not for: $*" >&2 && return 1; }
}

run cargo fmt --all --check
run check_tree 36 -p syncraft-rpc
run check_tree 40 -p syncraft --no-default-features --features client
# Most tests of processes and clusters wait.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((3 * $(getconf _NPROCESSORS_ONLN)))}

# `--all-targets`, but for libraries that say `test = false`.
run cargo clippy --locked --workspace --lib --bins --examples --tests --benches -- -D warnings
# Each feature alone, without the tests, which use all of them.
for features in "" client server testing cli; do
    run cargo clippy --locked -p syncraft --no-default-features --features "$features" \
        -- -D warnings
done
run cargo clippy --locked -p syncraft-rpc -- -D warnings
# Each crate can be packed, with its README and its .proto files.
run cargo package --locked --offline --no-verify --allow-dirty --quiet \
    -p syncraft-types -p syncraft-build -p syncraft-rpc -p syncraft-raft -p syncraft
run cargo test --locked --workspace
# Examples, benchmarks and scripts that no test runs, each as briefly as possible.
run cargo run --locked --example embedded_cluster
run cargo test --locked --workspace \
    --bench core --bench log --bench store --bench snapshot --bench frames
run cargo test --locked --workspace --bench echo -- --seconds 0.1 --turns 1
run cargo test --locked --workspace --bench fairness -- --calls 20
run env SOAK_PROFILE=test scripts/soak.sh 5s 0
# A crate of the scripts that is no part of the workspace.
ceiling=(--locked --manifest-path scripts/ceiling/Cargo.toml)
run cargo fmt --manifest-path scripts/ceiling/Cargo.toml --check
run cargo clippy "${ceiling[@]}" --all-targets -- -D warnings
run cargo test "${ceiling[@]}"
# The tests of others' clients that take under a minute, where they have been installed: see
# docs/etcd-clients.md.
if [ -e "${ACCEPTANCE_CACHE:-}/etcd3gw/complete" ]; then
    run env SYNCRAFT_BIN="${CARGO_TARGET_DIR:-$PWD/target}/debug/syncraft" scripts/acceptance/etcd3gw.sh
fi
# One bug that the simulator must catch, and one that a test must catch.
run scripts/mutants.sh vote_not_persisted answers_while_it_asks
run env RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --all-features
printf '\n== %s s: all passed\n' "$SECONDS"
