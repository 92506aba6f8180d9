"""Replaces every member of a cluster under load. See members.sh."""

import base64
import http.client
import json
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

CLIENTS = 8
PAUSE_MAX_MS = 200
# How long a request may take before its client goes to another member.
REQUEST_SECONDS = 5
STEP_SECONDS = 60


def free_port(taken=set()):
    while True:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        # A port that was given away a moment ago may look free.
        if port not in taken:
            taken.add(port)
            return port


def text(word):
    return base64.b64encode(word.encode()).decode()


def post(addr, path, body, seconds=REQUEST_SECONDS):
    connection = http.client.HTTPConnection(addr, timeout=seconds)
    try:
        connection.request("POST", path, json.dumps(body))
        answer = connection.getresponse()
        content = json.loads(answer.read() or b"{}")
        return answer.status, content
    finally:
        connection.close()


class Member:
    """A member's process and its addresses."""

    def __init__(self, number, directory):
        self.number = number
        self.peer, self.client = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.directory = directory / str(number)
        self.log = open(directory / f"{number}.log", "wb")
        self.process = None

    def start(self, command):
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def log_tail(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text(errors="replace").splitlines()[-15:]

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


class Syncraft:
    def __init__(self, program, directory):
        self.program, self.directory = program, directory

    def list_of(self, members):
        return ",".join(f"{member.number}={member.peer}" for member in members)

    def command(self, member, *rest):
        return [
            self.program, "server", "--id", str(member.number),
            "--data-dir", str(member.directory), "--etcd", member.client, *rest,
        ]

    def begin(self, members):
        for member in members:
            member.start(self.command(member, "--members", self.list_of(members)))

    def run(self, members, *words):
        words = [self.program, "member", *words, "--members", self.list_of(members)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=STEP_SECONDS)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: {done.returncode}: {done.stderr}")

    def add(self, member, present):
        member.start(
            self.command(member, "--join", self.list_of(present), "--listen", member.peer)
        )
        wait_until(lambda: listens(member.peer), "the newcomer listens")
        self.run(present, "add", f"{member.number}={member.peer}")

    def remove(self, member, present):
        self.run([other for other in present if other is not member], "remove", str(member.number))


class Etcd:
    def __init__(self, program, directory):
        self.program, self.directory = program, directory

    def start(self, member, members, state):
        cluster = ",".join(f"m{it.number}=http://{it.peer}" for it in members)
        member.start([
            self.program, "--name", f"m{member.number}", "--data-dir", str(member.directory),
            "--listen-peer-urls", f"http://{member.peer}",
            "--initial-advertise-peer-urls", f"http://{member.peer}",
            "--listen-client-urls", f"http://{member.client}",
            "--advertise-client-urls", f"http://{member.client}",
            "--initial-cluster", cluster, "--initial-cluster-state", state,
        ])

    def begin(self, members):
        for member in members:
            self.start(member, members, "new")

    def ask(self, present, path, body, done="nothing"):
        """`done`: the refusal that says that an attempt whose answer was lost has succeeded."""
        deadline = time.monotonic() + STEP_SECONDS
        while True:
            for member in present:
                try:
                    status, answer = post(member.client, path, body)
                    if status == 200 or answer.get("message", "").endswith(done):
                        return answer
                except (OSError, http.client.HTTPException):
                    answer = "no answer"
            if time.monotonic() > deadline:
                raise SystemExit(f"{path}: {answer}")
            time.sleep(0.1)

    def id_of(self, member, present):
        listed = self.ask(present, "/v3/cluster/member/list", {})["members"]
        [found] = [it for it in listed if it["peerURLs"] == [f"http://{member.peer}"]]
        return found["ID"]

    def add(self, member, present):
        body = {"peerURLs": [f"http://{member.peer}"], "isLearner": True}
        self.ask(present, "/v3/cluster/member/add", body, "Peer URLs already exists")
        self.start(member, present + [member], "existing")
        body = {"ID": self.id_of(member, present)}
        promote = "/v3/cluster/member/promote"
        self.ask(present, promote, body, "can only promote a learner member")

    def remove(self, member, present):
        others = [other for other in present if other is not member]
        body = {"ID": self.id_of(member, others)}
        self.ask(others, "/v3/cluster/member/remove", body, "member not found")


def listens(addr):
    host, port = addr.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
        return True
    except OSError:
        return False


def wait_until(is_so, words):
    deadline = time.monotonic() + STEP_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit(f"timed out: {words}")
        time.sleep(0.02)


class Load:
    """Clients that write, each key once, at the members that are there."""

    def __init__(self, addrs):
        self.addrs = addrs
        self.lock = threading.Lock()
        self.acknowledged = []  # (time, key)
        self.repeated = set()
        self.is_over = False
        self.threads = [threading.Thread(target=self.write, args=(n,)) for n in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def write(self, client):
        connection, at, count = None, client, 0
        while not self.is_over:
            key = f"load/{client}/{count}"
            body = json.dumps({"key": text(key), "value": text("x" * 64)})
            while not self.is_over:
                addrs = self.addrs
                try:
                    if connection is None:
                        addr = addrs[at % len(addrs)]
                        connection = http.client.HTTPConnection(addr, timeout=REQUEST_SECONDS)
                    connection.request("POST", "/v3/kv/put", body)
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status == 200:
                        break
                except (OSError, http.client.HTTPException):
                    pass
                # It may have taken effect: what follows may be a second time.
                with self.lock:
                    self.repeated.add(key)
                connection, at = None, at + 1
                time.sleep(0.005)
            else:
                return
            with self.lock:
                self.acknowledged.append((time.monotonic(), key))
            count += 1

    def end(self):
        self.is_over = True
        for thread in self.threads:
            thread.join()

    def longest_pause_ms(self):
        times = sorted(at for at, _ in self.acknowledged)
        return max(later - earlier for earlier, later in zip(times, times[1:])) * 1000


def check(load, addr):
    """Every acknowledged write is there, and none has taken effect twice."""
    kvs, first = {}, "load/"
    while True:
        body = {"key": text(first), "range_end": text("load0"), "limit": 10000}
        status, answer = post(addr, "/v3/kv/range", body, 30)
        assert status == 200, answer
        for kv in answer.get("kvs", []):
            kvs[base64.b64decode(kv["key"]).decode()] = int(kv["version"])
        if not answer.get("more"):
            break
        first = base64.b64decode(answer["kvs"][-1]["key"]).decode() + "\0"
    missing = [key for _, key in load.acknowledged if key not in kvs]
    twice = [key for key, version in kvs.items() if version > 1 and key not in load.repeated]
    return missing, twice


def run(kind, program):
    directory = pathlib.Path(tempfile.mkdtemp(prefix="members-"))
    store = kind(program, directory)
    members = [Member(number, directory) for number in range(1, 9)]
    try:
        present = members[:3]
        store.begin(present)
        for member in present:
            wait_until(lambda: is_serving(member.client), f"member {member.number} serves")
        load = Load([member.client for member in present])
        time.sleep(1)

        def add(member):
            nonlocal present
            store.add(member, present)
            present = present + [member]
            load.addrs = [it.client for it in present]

        def remove(member):
            nonlocal present
            load.addrs = [it.client for it in present if it is not member]
            store.remove(member, present)
            present = [it for it in present if it is not member]
            time.sleep(0.5)
            member.stop()

        add(members[3])
        add(members[4])
        remove(members[0])
        remove(members[1])
        add(members[5])
        add(members[6])
        remove(members[2])
        time.sleep(1)
        load.end()
        missing, twice = check(load, present[-1].client)
        pause = load.longest_pause_ms()
        print(
            f"{len(load.acknowledged)} writes, longest pause {pause:.0f} ms, "
            f"{len(missing)} missing, {len(twice)} twice, {len(load.repeated)} sent again",
            flush=True,
        )
        return pause, bool(missing or twice)
    except BaseException:
        print_logs(members)
        raise
    finally:
        if "load" in locals():
            load.end()
        for member in members:
            member.stop()
            member.log.close()
        shutil.rmtree(directory, ignore_errors=True)


def print_logs(members):
    for member in members:
        print(f"--- member {member.number}", *member.log_tail(), sep="\n", file=sys.stderr)


def is_serving(addr):
    try:
        return post(addr, "/v3/kv/range", {"key": text("x")}, 2)[0] == 200
    except OSError:
        return False


def main():
    store, program, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
    kind = {"syncraft": Syncraft, "etcd": Etcd}[store]
    results = [run(kind, program) for _ in range(runs)]
    median = statistics.median(pause for pause, _ in results)
    print(f"{store}: median of the longest pauses in {runs} runs: {median:.0f} ms")
    is_slow = store == "syncraft" and median > PAUSE_MAX_MS
    sys.exit(1 if is_slow or any(is_wrong for _, is_wrong in results) else 0)


if __name__ == "__main__":
    main()
