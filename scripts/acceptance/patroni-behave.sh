#!/usr/bin/env bash
# Runs Patroni's own features (behave) with this store in etcd's place, or with etcd.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/acceptance/patroni-behave.sh`.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: scripts/acceptance/patroni-behave.sh [syncraft|etcd|both] [FEATURE...]

Runs Patroni's features (without a FEATURE, such as dcs_failsafe_mode: all) with DCS=etcd3, and
prints each scenario with what became of it. They start a program `etcd` from PATH; for syncraft
that is a script that executes a member, so that they can stop and continue it. All features take
about 20 minutes a store. Needs root on Linux, iproute2, util-linux, openssl, Python 3 with venv,
and Debian's package postgresql-15; behave and what Patroni needs come from PyPI.

environment:
  PATRONI_SRC     Patroni's source with its directory `features`; without it, the source package
                  `patroni` is taken with apt-get
  SYNCRAFT_BIN    the syncraft binary to use; without it, one is built
  ETCD_DIR        a directory with the program etcd; without it, the one in PATH
  PG_BIN          the programs of PostgreSQL (default /usr/lib/postgresql/15/bin)
  PATRONI_CACHE   where behave is installed (default /var/cache/syncraft)
  FEATURE_SECONDS the longest time for one feature (default 600)
  KEEP_LOGS       a directory to which the logs of what failed are copied
USAGE
}

die() { printf 'patroni-behave.sh: %s\n' "$*" >&2; exit 1; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
case ${1:-syncraft} in
    syncraft | etcd) stores=${1:-syncraft} ;;
    both) stores="etcd syncraft" ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac
[ $# -eq 0 ] || shift

[ "$(id -u)" = 0 ] || die "network namespaces need root"
pg_bin=${PG_BIN:-/usr/lib/postgresql/15/bin}
[ -x "$pg_bin/postgres" ] || die "$pg_bin/postgres is missing: apt-get install postgresql-15"
for program in ip unshare setpriv openssl; do
    command -v "$program" >/dev/null || die "$program is missing"
done

work=$(mktemp -d)
chmod 755 "$work"
inside=
clean() {
    [ -z "$inside" ] || kill -KILL "$inside" 2>/dev/null || true
    wait 2>/dev/null || true
    if [ -n "${KEEP_LOGS:-}" ]; then
        mkdir -p "$KEEP_LOGS"
        for store in $stores; do
            cp -r "$work/$store/features/output" "$KEEP_LOGS/$store" 2>/dev/null || true
            cp -r "$work/$store/results" "$KEEP_LOGS" 2>/dev/null || true
        done
    fi
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 1' INT TERM

source=${PATRONI_SRC:-}
if [ -z "$source" ]; then
    # The lists of source packages, which are seldom there, are read into a directory of our own.
    mkdir -p "$work/lists/partial" "$work/source"
    sed -s 's/^Types:.*/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >"$work/apt.sources"
    apt=(apt-get -qq -o Dir::Etc::sourcelist="$work/apt.sources" -o Dir::Etc::sourceparts=-
        -o Dir::State::lists="$work/lists" -o APT::Sandbox::User=root)
    (cd "$work/source" && "${apt[@]}" update && "${apt[@]}" source patroni >/dev/null) ||
        die "the source package patroni cannot be had: set PATRONI_SRC"
    source=$(echo "$work"/source/patroni-*/)
fi
[ -d "$source/features" ] || die "$source has no directory features"

# The user postgres must be able to read it, which rules out a Python in root's home.
venv=${PATRONI_CACHE:-/var/cache/syncraft}/patroni-behave
if [ ! -e "$venv/complete" ]; then
    python=/usr/bin/python3
    [ -x $python ] || python=python3
    rm -rf "$venv" && mkdir -p "${venv%/*}"
    timeout 600 $python -m venv "$venv" || die "no venv: apt-get install python3-venv"
    timeout 600 "$venv/bin/pip" install --quiet --disable-pip-version-check --use-pep517 \
        "patroni[etcd3]==4.1.5" psycopg2-binary behave coverage setuptools ||
        die "behave cannot be installed"
    touch "$venv/complete"
fi

# Makes a directory with a program `etcd`, which is run as `etcd --enable-v2=true --data-dir DIR`.
shim() {
    mkdir "$work/$1-bin"
    if [ "$1" = etcd ]; then
        ln -s "$(command -v "${ETCD_DIR:+$ETCD_DIR/}etcd")" "$work/$1-bin/etcd"
        return
    fi
    if [ -z "${SYNCRAFT_BIN:-}" ]; then
        (cd "$root" && cargo build --release --locked --quiet --bin syncraft) ||
            die "the build failed"
        SYNCRAFT_BIN=${CARGO_TARGET_DIR:-$root/target}/release/syncraft
    fi
    # A copy, which the user postgres can read wherever the original is.
    cp "$SYNCRAFT_BIN" "$work/$1-bin/syncraft"
    cat >"$work/$1-bin/etcd" <<SHIM
#!/bin/sh
for directory; do :; done
exec "$work/$1-bin/syncraft" server --id 1 --members 1=127.0.0.1:2380 \\
    --data-dir "\$directory" --etcd localhost:2379 --advertise-etcd http://localhost:2379
SHIM
    chmod 755 "$work/$1-bin/etcd"
}

for store in $stores; do
    shim "$store"
    cp -r "$source" "$work/$store"
    mkdir -p "$work/$store/features/output" "$work/$store/results/$store"
    chown -R postgres "$work/$store"
    features=("$@")
    if [ ${#features[@]} = 0 ]; then
        features=("$work/$store"/features/*.feature)
        features=("${features[@]##*/}")
    fi
    for feature in "${features[@]%.feature}"; do
        [ -e "$work/$store/features/$feature.feature" ] || die "there is no feature $feature"
        echo "--- $store: $feature"
        # A namespace for each feature: its ports are free, and nothing of it outlives it.
        unshare --net --mount --pid --fork --kill-child --mount-proc bash -c '
            ip link set lo up
            "$@"; exit $?' bash \
            setpriv --reuid=postgres --regid=postgres --init-groups \
            env -C "$work/$store" -u ETCD_DIR HOME="$work/$store" TMPDIR="$work/$store" DCS=etcd3 \
            BUILD_NUMBER=1 PATH="$work/$store-bin:$venv/bin:$pg_bin:$PATH" \
            timeout --kill-after=10 "${FEATURE_SECONDS:-600}" "$venv/bin/behave" --no-color \
            --format json --outfile "results/$store/$feature.json" \
            --format plain --outfile "results/$store/$feature.txt" \
            "features/$feature.feature" >/dev/null 2>&1 &
        inside=$!
        wait "$inside" || true
        inside=
    done
done
"$venv/bin/python" -B "$root/scripts/acceptance/patroni/features.py" \
    $(for store in $stores; do echo "$work/$store/results/$store"; done)
