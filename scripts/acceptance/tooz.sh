#!/usr/bin/env bash
# Runs the tests of tooz, OpenStack's library for coordination, against a store.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/acceptance/tooz.sh`.
. "$(dirname "${BASH_SOURCE[0]}")/python-suite.sh"

usage() {
    cat <<'USAGE'
usage: scripts/acceptance/tooz.sh [syncraft|etcd]

Starts three members of the store, installs tooz from PyPI, and runs its own tests of coordination
with the driver etcd3+http, through a follower. What the driver does not support is skipped. Prints
how many passed, failed and were skipped; exits with 1 unless none failed. Needs Linux, curl,
python3 with venv, and PyPI.

environment:
  ACCEPTANCE_CACHE  a directory that keeps what was installed; without it, it is removed at the end
  SYNCRAFT_BIN      the syncraft binary to use; without it, one is built
  ETCD_DIR          a directory with the program etcd; without it, the one in PATH
USAGE
}

if [ "${1:-}" = inside ]; then
    export TOOZ_TEST_URL=etcd3+${STORE_URL/127.0.0.1/localhost}
    exec timeout 600 "$2" -m unittest tooz.tests.test_coordination
fi
take_arguments "$@"
with_packages tooz==9.1.0 etcd3gw==2.7.0 testtools fixtures ddt oslo.utils \
    sysv_ipc pymemcache redis # The tests import the other drivers too.
judge of_unittest "$root/scripts/acceptance/tooz.sh" inside "$python"
