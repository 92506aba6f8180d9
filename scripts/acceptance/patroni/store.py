"""The store that Patroni uses: three members of syncraft, or of etcd, one on each host."""

import http.client
import json
import os
import signal
import subprocess

import hosts


class Store:
    """`client_port` and the port after it are the store's own on each host."""

    def __init__(self, work, client_port=2379):
        self.client_port, self.peer_port = client_port, client_port + 1
        self.members = {}
        for n in hosts.ALL:
            directory = f"{work}/{self.name}-{client_port}-{n}"
            self.members[n] = hosts.Process(n, self.words(n, directory), f"{directory}.log")

    def url(self, host):
        """Where Patroni reaches the member on `host`."""
        return f"http://{hosts.address(host)}:{self.client_port}"

    def call(self, host, path, body=None, seconds=5):
        """Asks the member on `host`: the status and the decoded answer. Raises OSError if it
        fails."""
        connection = http.client.HTTPConnection(
            hosts.control_address(host), self.client_port, timeout=seconds)
        try:
            if body is None:
                connection.request("GET", path)
            else:
                connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text.startswith(b"{") else text.decode()
        except http.client.HTTPException as error:
            raise OSError(f"{path} of member {host}: {error!r}") from error
        finally:
            connection.close()

    def start(self):
        for member in self.members.values():
            member.start()

    def status(self, host):
        """What the member on `host` says of itself; None if it says nothing."""
        try:
            code, status = self.call(host, "/v3/maintenance/status", {}, seconds=2)
            return status if code == 200 and isinstance(status, dict) else None
        except (OSError, ValueError):
            return None

    def leader(self):
        """The host of the leader, or None."""
        for host in hosts.ALL:
            status = self.status(host)
            if status and status.get("leader") == status["header"]["member_id"]:
                return host
        return None

    def is_healthy(self):
        """Whether all members serve and agree who leads."""
        leaders = set()
        for host in hosts.ALL:
            try:
                code, health = self.call(host, "/health", seconds=2)
            except (OSError, ValueError):
                return False
            status = self.status(host)
            if code != 200 or health.get("health") != "true" or not status:
                return False
            leaders.add(status.get("leader"))
        return len(leaders) == 1 and None not in leaders

    def stop_all(self):
        for member in self.members.values():
            member.signal(signal.SIGSTOP)

    def continue_all(self):
        for member in self.members.values():
            member.signal(signal.SIGCONT)


class Etcd(Store):
    name = "etcd"

    def words(self, n, directory):
        initial = ",".join(f"m{k}=http://{hosts.address(k)}:{self.peer_port}" for k in hosts.ALL)
        peer = f"http://{hosts.address(n)}:{self.peer_port}"
        # etcd warns of variables with its name that it does not know.
        return ["env", "-u", "ETCD_BIN", "-u", "ETCD_DIR", os.environ["ETCD_BIN"],
                "--name", f"m{n}", "--data-dir", directory,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", initial, "--log-level", "warn",
                "--listen-client-urls", f"http://0.0.0.0:{self.client_port}",
                "--advertise-client-urls", self.url(n)]

    def version(self):
        words = subprocess.run([os.environ["ETCD_BIN"], "--version"], check=True,
                               capture_output=True, text=True).stdout.split()
        return f"etcd {words[2]}"

    def transfer(self, host):
        """Asks for `host` to become the leader."""
        leader, status = self.leader(), self.status(host)
        if leader and status:
            self.call(leader, "/v3/maintenance/transfer-leadership",
                 {"targetID": status["header"]["member_id"]})


class Syncraft(Store):
    name = "syncraft"

    def words(self, n, directory):
        return [os.environ["SYNCRAFT_BIN"], "server", "--id", str(n), "--members", self.list(),
                "--data-dir", directory, "--etcd", f"0.0.0.0:{self.client_port}",
                "--advertise-etcd", self.url(n)]

    def list(self):
        return ",".join(f"{k}={hosts.address(k)}:{self.peer_port}" for k in hosts.ALL)

    def version(self):
        return subprocess.run([os.environ["SYNCRAFT_BIN"], "--version"], check=True,
                              capture_output=True, text=True).stdout.strip()

    def transfer(self, host):
        """Asks for `host` to become the leader."""
        subprocess.run(hosts.command(host, [os.environ["SYNCRAFT_BIN"], "transfer", str(host),
                                            "--members", self.list()]),
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


KINDS = {kind.name: kind for kind in (Etcd, Syncraft)}
