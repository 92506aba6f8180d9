#!/usr/bin/env bash
# Shows that Patroni keeps PostgreSQL highly available with this store, or with etcd: three hosts
# (network namespaces), each with a member of the store, a Patroni and a PostgreSQL, and faults.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/acceptance/patroni.sh`.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: scripts/acceptance/patroni.sh [syncraft|etcd|both] [SCENARIO...]

Runs the scenarios (without one: all) and prints what passed and the times, as a table; with `both`,
etcd's beside syncraft's. All of it takes about 6 minutes a store. `etcd move` runs a scenario of
its own: Patroni moves from etcd to syncraft.

Needs root on Linux, iproute2, util-linux, Python 3 with venv, and Debian's package postgresql-15;
Patroni comes from PyPI. Nothing is left running: the processes live in a namespace that ends with
the script.

environment:
  SYNCRAFT_BIN    the syncraft binary to use; without it, one is built
  ETCD_DIR        a directory with the program etcd; without it, the one in PATH
  PG_BIN          the programs of PostgreSQL (default /usr/lib/postgresql/15/bin)
  PATRONI         the version of Patroni (default 4.1.5)
  PATRONI_CACHE   where Patroni is installed (default /var/cache/syncraft)
  KEEP_LOGS       a directory to which the logs are copied at the end
  TMPDIR          where the data is
USAGE
}

die() { printf 'patroni.sh: %s\n' "$*" >&2; exit 1; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
case ${1:-syncraft} in
    syncraft | etcd) stores=${1:-syncraft} ;;
    both) stores="etcd syncraft" ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac
[ $# -eq 0 ] || shift

[ "$(id -u)" = 0 ] || die "network namespaces need root"
export PG_BIN=${PG_BIN:-/usr/lib/postgresql/15/bin}
[ -x "$PG_BIN/postgres" ] || die "$PG_BIN/postgres is missing: apt-get install postgresql-15"
for program in ip unshare setpriv; do
    command -v "$program" >/dev/null || die "$program is missing: apt-get install iproute2"
done
id postgres >/dev/null 2>&1 || die "there is no user postgres"
if [[ $stores == *etcd* ]]; then
    ETCD_BIN=$(command -v "${ETCD_DIR:+$ETCD_DIR/}etcd") || die "etcd is missing: see --help"
    export ETCD_BIN
fi
if [[ "$stores $*" == *syncraft* || " $* " == *" move "* ]]; then
    if [ -z "${SYNCRAFT_BIN:-}" ]; then
        (cd "$root" && cargo build --release --locked --quiet --bin syncraft) ||
            die "the build failed"
        SYNCRAFT_BIN=${CARGO_TARGET_DIR:-$root/target}/release/syncraft
    fi
    export SYNCRAFT_BIN
fi

# The user postgres must be able to read it, which rules out a Python in root's home.
version=${PATRONI:-4.1.5}
venv=${PATRONI_CACHE:-/var/cache/syncraft}/patroni-$version
if [ ! -e "$venv/complete" ]; then
    python=/usr/bin/python3
    [ -x $python ] || python=python3
    rm -rf "$venv" && mkdir -p "${venv%/*}"
    timeout 600 $python -m venv "$venv" || die "no venv: apt-get install python3-venv"
    timeout 600 "$venv/bin/pip" install --quiet --disable-pip-version-check --use-pep517 \
        "patroni[etcd3]==$version" "ydiff<1.3" psycopg2-binary ||
        die "Patroni $version cannot be installed"
    touch "$venv/complete"
fi

work=$(mktemp -d)
chmod 755 "$work" # The user postgres has directories in it.
inside=
clean() {
    [ -z "$inside" ] || kill -KILL "$inside" 2>/dev/null || true
    wait 2>/dev/null || true
    if [ -n "${KEEP_LOGS:-}" ]; then
        logs=$(mkdir -p "$KEEP_LOGS" && cd "$KEEP_LOGS" && pwd)
        (cd "$work" && find . -regex '.*\.log\|.*/results\.json' -exec cp --parents {} "$logs" \;)
    fi
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 1' INT TERM

# Process 1 of the namespace is a shell, so that somebody waits for orphans. When it ends, the
# kernel ends everything else in there, and removes the network.
failed=0
for store in $stores; do
    unshare --net --mount --pid --fork --kill-child --mount-proc bash -c '
        mkdir -p /run/netns && mount -t tmpfs none /run/netns
        "$@"; exit $?' bash \
        "$venv/bin/python" -B "$root/scripts/acceptance/patroni" "$store" "$work/$store" "$@" &
    inside=$!
    wait "$inside" || failed=1
    inside=
done
echo
"$venv/bin/python" -B "$root/scripts/acceptance/patroni/table.py" "$work"/*/results.json
exit $failed
