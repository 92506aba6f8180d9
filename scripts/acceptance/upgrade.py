"""Upgrades a cluster of the last version, member by member, under load. See upgrade.sh."""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from members import Load, Member, check, is_serving, listens, post, print_logs, text, wait_until


class Cluster:
    def __init__(self, old, new, directory):
        self.old, self.new = old, new
        self.members = [Member(number, directory) for number in range(1, 5)]
        self.first = self.members[:3]
        self.list = ",".join(f"{member.number}={member.peer}" for member in self.first)

    def start(self, member, program, *flags):
        flags = flags or ("--members", self.list)
        member.start([
            program, "server", "--id", str(member.number), "--data-dir", str(member.directory),
            "--etcd", member.client, *flags,
        ])

    def restart(self, member, program, is_killed=False):
        if is_killed:
            member.process.kill()
        else:
            member.process.terminate()
        member.process.wait()
        self.start(member, program)
        wait_until(lambda: is_serving(member.client), f"member {member.number} serves again")

    def run(self, program, *words):
        words = [program, *words, "--members", self.list]
        return subprocess.run(words, capture_output=True, text=True, timeout=60)

    def status(self, member):
        """What a member says of itself."""
        done = self.run(self.new, "status", "--json")
        lines = [json.loads(line) for line in done.stdout.splitlines() if line]
        rows = lines[0].get("members", lines) if len(lines) == 1 else lines
        return next(row for row in rows if row.get("id") == member.number)

    def level(self):
        return max(self.status(member).get("level") or 0 for member in self.first)

    def cluster_id(self):
        # What etcd's clients see.
        _, answer = post(self.first[0].client, "/v3/kv/range", {"key": text("x")})
        return answer["header"]["cluster_id"]


def say(words):
    print(f"{time.strftime('%X')} {words}", flush=True)


def expect(is_so, words):
    if not is_so:
        raise SystemExit(f"not so: {words}")
    say(words)


def upgrade(cluster):
    one, two, three = cluster.first
    for member in cluster.first:
        cluster.start(member, cluster.old)
    for member in cluster.first:
        wait_until(lambda: is_serving(member.client), f"member {member.number} serves")
    load = Load([member.client for member in cluster.first])
    try:
        time.sleep(1)
        cluster_id, level = cluster.cluster_id(), cluster.level()
        say(f"three members of the last version, level {level}, cluster {cluster_id}")
        cluster.run(cluster.old, "snapshot")
        cluster.restart(one, cluster.new)
        time.sleep(1)
        expect(cluster.level() == level, "one of three is new: the level stays")
        cluster.restart(one, cluster.old)
        say("it went back to the last version")
        cluster.restart(one, cluster.new, is_killed=True)
        cluster.restart(two, cluster.new)
        time.sleep(1)
        expect(cluster.level() == level, "two of three are new: the level stays")
        cluster.run(cluster.new, "transfer", "3")
        cluster.restart(two, cluster.new, is_killed=True)
        say("a new one was killed while an old one led")
        cluster.run(cluster.new, "transfer", "1")
        cluster.run(cluster.new, "snapshot")
        cluster.restart(three, cluster.old, is_killed=True)
        say("an old one was killed while a new one led")
        listed = cluster.run(cluster.new, "member", "remove", "3")
        expect(listed.returncode == 3, f"nothing changes yet: {listed.stderr.strip()}")
        cluster.restart(three, cluster.new)
        wait_until(lambda: cluster.level() > level, "the level rises")
        expect(cluster.cluster_id() == cluster_id, "all are new: the level rose, the id stayed")
        wait_until(
            lambda: cluster.run(cluster.new, "member", "list").returncode == 0,
            "the members are recorded",
        )
        three.process.terminate()
        three.process.wait()
        refused = subprocess.run(
            [
                cluster.old, "server", "--id", "3", "--members", cluster.list,
                "--data-dir", str(three.directory),
            ],
            capture_output=True, text=True, timeout=60,
        )
        words = refused.stderr.strip().splitlines()[-1]
        expect(refused.returncode == 3 and "newer" in words, f"the last version refuses: {words}")
        cluster.start(three, cluster.new)
        four = cluster.members[3]
        cluster.start(four, cluster.new, "--join", cluster.list, "--listen", four.peer)
        wait_until(lambda: listens(four.peer), "the newcomer listens")
        added = cluster.run(cluster.new, "member", "add", f"4={four.peer}")
        expect(added.returncode == 0, "a fourth member was added")
        time.sleep(1)
    finally:
        load.end()
    missing, twice = check(load, cluster.members[3].client)
    expect(
        not missing and not twice,
        f"{len(load.acknowledged)} writes, longest pause {load.longest_pause_ms():.0f} ms, "
        f"{len(missing)} missing, {len(twice)} twice",
    )


def main():
    directory = pathlib.Path(tempfile.mkdtemp(prefix="upgrade-"))
    cluster = Cluster(sys.argv[1], sys.argv[2], directory)
    try:
        upgrade(cluster)
    except BaseException:
        print_logs(cluster.members)
        raise
    finally:
        for member in cluster.members:
            member.stop()
            member.log.close()
        shutil.rmtree(directory, ignore_errors=True)


main()
