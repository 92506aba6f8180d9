#!/usr/bin/env bash
# Runs the live tests of etcd3gw, a Python client of etcd's JSON API, against a store.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/acceptance/etcd3gw.sh`.
. "$(dirname "${BASH_SOURCE[0]}")/python-suite.sh"

usage() {
    cat <<'USAGE'
usage: scripts/acceptance/etcd3gw.sh [syncraft|etcd]

Starts three members of the store, installs etcd3gw from PyPI, and runs its own tests through a
follower. Prints how many passed, failed and were skipped; exits with 1 unless all passed. Needs
Linux, curl, python3 with venv, and PyPI.

environment:
  ACCEPTANCE_CACHE  a directory that keeps what was installed; without it, it is removed at the end
  SYNCRAFT_BIN      the syncraft binary to use; without it, one is built
  ETCD_DIR          a directory with the program etcd; without it, the one in PATH
USAGE
}

if [ "${1:-}" = inside ]; then
    # The client's host is `localhost`.
    export TOOZ_TEST_ETCD_PORT=$STORE_PORT TOOZ_TEST_HTTP_URL=$STORE_URL
    exec timeout 300 "$2" -m unittest etcd3gw.tests.test_etcd3gw
fi
take_arguments "$@"
with_packages etcd3gw==2.7.0 oslotest
judge of_unittest "$root/scripts/acceptance/etcd3gw.sh" inside "$python"
