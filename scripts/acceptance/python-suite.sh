# Shared by the scripts that run a Python client's own tests: sourced by them, with bash.
# Sets `root` and `store`, and has the functions below.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
name=$(basename "$0")

die() { printf '%s: %s\n' "$name" "$*" >&2; exit 1; }

# Takes the arguments of the script: which store.
take_arguments() {
    store=${1:-syncraft}
    case $store in
        syncraft | etcd) [ $# -le 1 ] || { usage >&2; exit 2; } ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    command -v python3 >/dev/null || die "python3 is missing"
}

# Makes `python` that of an environment with the packages named. It is kept in $ACCEPTANCE_CACHE, or
# temporary without that. The environment's directory is `venv`.
with_packages() {
    if [ -n "${ACCEPTANCE_CACHE:-}" ]; then
        mkdir -p "$ACCEPTANCE_CACHE"
        venv=$ACCEPTANCE_CACHE/${name%.sh}
    else
        venv=$(mktemp -d)
        trap 'rm -rf "$venv"' EXIT
    fi
    python=$venv/bin/python
    if [ ! -e "$venv/complete" ]; then
        python3 -m venv --clear "$venv" || die "python3 -m venv failed: apt-get install python3-venv"
        "$python" -m pip install --quiet --disable-pip-version-check "$@" || die "pip install failed"
        "$python" -m pip freeze >"$venv/complete"
    fi
}

# Runs a command with the store, and prints one line with the counts that $counts finds in what it
# printed: a function that reads the log and prints "PASSED FAILED SKIPPED".
judge() {
    local counts=$1 log status=0 began=$SECONDS passed failed skipped
    shift
    log=$(mktemp)
    "$root/scripts/acceptance/with-store.sh" "$store" "$@" >"$log" 2>&1 || status=$?
    read -r passed failed skipped < <($counts <"$log") || true
    if [ "$status" != 0 ] || [ "${failed:-1}" != 0 ] || [ "${passed:-0}" = 0 ]; then
        cat "$log" >&2
        status=1
    fi
    rm -f "$log"
    echo "${name%.sh}, $store: ${passed:-0} passed, ${failed:-?} failed, ${skipped:-?} skipped," \
        "$((SECONDS - began)) s"
    return $status
}

# Counts for `judge`, of Python's unittest.
of_unittest() {
    awk '/^Ran [0-9]+ tests? in/ { ran = $2 }
        /^(OK|FAILED)( \(|$)/ {
            n = split($0, parts, /[(,) ]+/)
            for (at = 1; at <= n; at++) {
                split(parts[at], pair, "=")
                if (pair[1] == "skipped") skipped += pair[2]
                if (pair[1] == "failures" || pair[1] == "errors") failed += pair[2]
            }
        }
        END { if (ran != "") print ran - failed - skipped, failed + 0, skipped + 0 }'
}

# Counts for `judge`, of pytest.
of_pytest() {
    awk '/^(=+ )?[0-9]+ (passed|failed|skipped|error)/ { line = $0 }
        END {
            n = split(line, words, /[ ,=]+/)
            for (at = 2; at <= n; at++) count[words[at]] += words[at - 1]
            failed = count["failed"] + count["error"] + count["errors"]
            if (line != "") print count["passed"] + 0, failed + 0, count["skipped"] + 0
        }'
}
