"""Three hosts on this machine: network namespaces, with a switch between them.

    driver (this process)
      |          |          |        10.78.N.1 to 10.78.N.2: how this process sees host N,
    host 1     host 2     host 3     also while it is cut off
      |          |          |        10.77.0.N: how the hosts see each other
      +------- switch ------+

All of it is inside the namespaces that `patroni.sh` has made, and ends with them.
"""

import os
import signal
import subprocess
import time

COUNT = 3
ALL = range(1, COUNT + 1)


def address(host):
    """Where other hosts reach `host`."""
    return f"10.77.0.{host}"


def control_address(host):
    """Where this process reaches `host`, whether or not it is cut off."""
    return f"10.78.{host}.2"


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def set_up():
    ip("link", "set", "lo", "up")
    ip("netns", "add", "switch")
    ip("-n", "switch", "link", "add", "switch", "type", "bridge")
    ip("-n", "switch", "link", "set", "switch", "up")
    for n in ALL:
        host = f"host{n}"
        ip("netns", "add", host)
        ip("link", "add", f"port{n}", "netns", "switch", "type", "veth",
           "peer", "name", "eth0", "address", mac(n), "netns", host)
        ip("link", "add", f"control{n}", "type", "veth", "peer", "name", "control", "netns", host)
        ip("addr", "add", f"10.78.{n}.1/30", "dev", f"control{n}")
        ip("link", "set", f"control{n}", "up")
        ip("-n", "switch", "link", "set", f"port{n}", "master", "switch", "up")
        ip("-n", host, "addr", "add", f"{control_address(n)}/30", "dev", "control")
        ip("-n", host, "addr", "add", f"{address(n)}/24", "dev", "eth0")
        for device in ("lo", "control", "eth0"):
            ip("-n", host, "link", "set", device, "up")
        # Hosts know each other's hardware addresses, so what is sent to one that is cut off is
        # lost, and not refused for want of an answer to ARP.
        for other in ALL:
            if other != n:
                ip("-n", host, "neigh", "add", address(other), "lladdr", mac(other),
                   "dev", "eth0", "nud", "permanent")


def mac(host):
    return f"02:00:00:00:00:{host:02x}"


def isolate(host):
    """Cuts `host` off from the others: packets are lost, and nobody is told."""
    ip("-n", "switch", "link", "set", f"port{host}", "nomaster")


def rejoin(host):
    ip("-n", "switch", "link", "set", f"port{host}", "master", "switch")


def command(host, words, user=None):
    """The words of a command that runs `words` on `host`."""
    as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
    return ["ip", "netns", "exec", f"host{host}", *as_user, *words]


class Process:
    """A program on a host, which can be ended, stopped and started again. It appends to its log."""

    def __init__(self, host, words, log, user=None):
        self.host, self.words, self.log, self.user = host, words, log, user
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command(self.host, self.words, self.user), stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, cwd="/", start_new_session=True)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self, seconds):
        self.signal(signal.SIGTERM)
        self.process.wait(timeout=seconds)

    def is_running(self):
        return self.process is not None and self.process.poll() is None


def kill_all_but(host, keep):
    """`kill -9` of every process on `host` other than `keep`, a Process."""
    while True:
        pids = {int(pid) for pid in
                subprocess.run(["ip", "netns", "pids", f"host{host}"], check=True,
                               capture_output=True, text=True).stdout.split()}
        pids = {pid for pid in pids - {keep.process.pid} if not is_zombie(pid)}
        if not pids:
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.01)


def is_zombie(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
