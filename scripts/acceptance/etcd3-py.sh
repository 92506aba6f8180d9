#!/usr/bin/env bash
# Runs the tests of etcd3-py, a Python client of all services of etcd's JSON API, against a store.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/acceptance/etcd3-py.sh`.
. "$(dirname "${BASH_SOURCE[0]}")/python-suite.sh"

usage() {
    cat <<'USAGE'
usage: scripts/acceptance/etcd3-py.sh [syncraft|etcd]

Starts three members of the store, downloads etcd3-py 0.1.6 with its tests from PyPI, and runs them
through a follower. Prints how many passed, failed and were skipped; exits with 1 unless none
failed. Needs Linux, curl, python3 with venv, and PyPI.

What is replaced in the suite: the port 2379; and the program etcdctl, which speaks gRPC, by one of
this script that does the same through the JSON API. What is left out, for either store: users and
roles; alarms that clients raise; the test that gives a backup to `etcdctl snapshot status`; two
tests that fail with either store, one because of Python 3.11, the other now and then because of its
own timer. The tests of TLS need Docker, and are skipped.

environment:
  ACCEPTANCE_CACHE  a directory that keeps what was installed; without it, it is removed at the end
  SYNCRAFT_BIN      the syncraft binary to use; without it, one is built
  ETCD_DIR          a directory with the program etcd; without it, the one in PATH
USAGE
}

# What the tests use of etcdctl, in Python.
etcdctl() {
    cat <<'PYTHON'
import base64, json, sys, urllib.request

words, options = [], {}
for word in sys.argv[1:]:
    if words and words[-1] in ("--endpoints", "-w"):
        options[words.pop()] = word
    elif word.startswith("--") and "=" in word:
        options.update([word.split("=", 1)])
    elif word in ("--from-key", "--physical"):
        options[word] = True
    else:
        words.append(word)

def ask(path, **body):
    request = urllib.request.Request(options["--endpoints"] + "/v3/" + path,
                                     json.dumps(body).encode())
    return json.load(urllib.request.urlopen(request, timeout=10))

def b64(text):
    return base64.b64encode(text.encode()).decode()

if words[0] == "put":
    lease = int(options.get("--lease", "0"), 16)
    answer = ask("kv/put", key=b64(words[1]), value=b64(words[2]), lease=lease)
elif words[0] == "del" and "--from-key" in options:
    answer = ask("kv/deleterange", key=b64(words[1] or "\0"), range_end=b64("\0"))
elif words[0] == "del":
    answer = ask("kv/deleterange", key=b64(words[1]))
elif words[0] == "compaction":
    answer = ask("kv/compaction", revision=words[1], physical="--physical" in options)
elif words[0] == "defrag":
    answer = ask("maintenance/defragment")
elif words[:2] == ["endpoint", "health"]:
    answer = ask("kv/range", key=b64("health"))
else:
    sys.exit("this etcdctl does not know: " + " ".join(words))
# The real one prints numbers where the JSON API has strings.
header = answer.get("header", {})
answer["header"] = {name: int(value) for name, value in header.items()}
print(json.dumps(answer))
PYTHON
}

if [ "${1:-}" = inside ]; then
    cd "$3"
    export ETCD_ENDPOINT=$STORE_URL PATH=$3/bin:$PATH
    exec timeout 600 "$2" -m pytest -q -p no:cacheprovider -W ignore --asyncio-mode auto tests \
        --ignore tests/test_auth_apis.py --ignore tests/test_py3/test_aio_auth_apis.py \
        --deselect tests/test_maintenance_apis.py::test_snapshot \
        --deselect tests/test_maintenance_apis.py::test_alarm \
        --deselect tests/test_lease_util.py::test_lease_util \
        --deselect tests/test_py3/test_aio_client.py::test_async_stream
fi
take_arguments "$@"
with_packages etcd3-py==0.1.6 'pytest<8' pytest-timeout 'pytest-asyncio<0.22' mock six aiohttp \
    'setuptools<66' wheel
tests=$venv/etcd3-py
if [ ! -d "$tests" ]; then
    # Its setup.py asks for an attribute that pip has renamed since.
    cat >"$venv/compat.py" <<'PYTHON'
try:
    from pip._internal.req.req_file import ParsedRequirement
    ParsedRequirement.req = property(lambda self: self.requirement)
except ImportError:
    pass
PYTHON
    site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    printf 'import sys; sys.path.append("%s"); import compat\n' "$venv" >"$site/compat.pth"
    SETUPTOOLS_USE_DISTUTILS=stdlib "$python" -m pip download --quiet --no-deps \
        --no-build-isolation --no-binary etcd3-py --dest "$venv" etcd3-py==0.1.6 || die "no tests"
    rm "$site/compat.pth"
    mkdir "$tests.new" "$tests.new/bin"
    tar -xzf "$venv/etcd3-py-0.1.6.tar.gz" -C "$tests.new" --strip-components 1
    sed -i "s/return None, 2379, None/from .envs import port; return None, int(port), None/" \
        "$tests.new/tests/docker_cli.py"
    rm -r "$tests.new/etcd3" # The installed one is tested.
    { echo "#!$python"; etcdctl; } >"$tests.new/bin/etcdctl"
    chmod +x "$tests.new/bin/etcdctl"
    mv "$tests.new" "$tests"
fi
judge of_pytest "$root/scripts/acceptance/etcd3-py.sh" inside "$python" "$tests"
