"""Runs the scenarios against one store. Started by `patroni.sh`, inside its namespaces.

    patroni STORE DIRECTORY [SCENARIO...]
"""

import contextlib
import json
import os
import subprocess
import sys
import time

import hosts
import store as stores
import table
from cluster import Cluster, Failed, LOOP_WAIT, SCOPE, TTL, count_levels, wait_for
from watch import Watch, Writer

# From the death of a leader to the next one: the rest of its lease, and a round of Patroni's loop.
FAILOVER_SECONDS_MAX = TTL + LOOP_WAIT + 3
# While the store changes its leader, or its members stand still, leases are given more time.
FAILOVER_IN_PARTITION_SECONDS_MAX = FAILOVER_SECONDS_MAX + TTL
STORE_KILLS = 3


class Trial:
    """A cluster, what is known of it, and the scenarios."""

    def __init__(self, kind, work):
        self.work = work
        self.store = stores.KINDS[kind](work)
        self.cluster = Cluster(self.store, work)
        self.watch, self.writer = Watch(), Writer()
        self.measures = {}
        self.marks = {}

    # --- scenarios, in the order in which they run ------------------------------------------------

    def bootstrap(self):
        """From nothing to a primary and two replicas"""
        begin = time.monotonic()
        self.store.start()
        wait_for("the store serves", 60, self.store.is_healthy)
        self.measure("store serves", time.monotonic() - begin)
        begin = time.monotonic()
        for node in self.cluster.nodes.values():
            node.patroni.start()
        wait_for("a primary", 120, self.cluster.primary_known_to_patroni)
        self.measure("first primary", time.monotonic() - begin)
        self.cluster.settle(180)
        self.measure("two replicas stream", time.monotonic() - begin)
        primary = self.cluster.primary()
        if primary.sql("create table numbered (n bigint primary key)") is None:
            raise Failed("the table cannot be made")
        self.watch.start()
        self.writer.start()
        wait_for("the first rows", 10, lambda: self.writer.since(0) > 10)

    def replication(self):
        """What is written on the primary is read on both replicas"""
        mark = self.writer.acknowledged[-1][0]
        for node in self.cluster.replicas():
            wait_for(f"row {mark} on {node.name}", 10,
                     lambda: node.sql("select n from numbered where n = %s", mark))

    def edit_config(self):
        """patronictl edit-config reaches every PostgreSQL"""
        begin = time.monotonic()
        self.cluster.patronictl("edit-config", "--force", "--quiet", "-p", "work_mem=7MB", SCOPE)
        wait_for("work_mem everywhere", 30, lambda: all(
            node.sql("show work_mem") == [("7MB",)] for node in self.cluster.nodes.values()))
        self.measure("in force on all nodes", time.monotonic() - begin)

    def switchover(self):
        """patronictl switchover to the synchronous replica"""
        old, new = self.cluster.primary(), self.synchronous()
        begin = time.monotonic()
        self.cluster.patronictl("switchover", "--leader", old.name, "--candidate", new.name,
                                "--force", SCOPE, host=old.n)
        self.await_primary(new, begin, 30)
        self.measure("new primary", self.watch.writable[new.n].first_yes(begin) - begin)
        self.cluster.settle()
        self.measure("longest pause of writes", self.writer.longest_pause(begin))

    def kill_postgres(self):
        """kill -9 of the primary's PostgreSQL alone: Patroni starts it again, or another leads"""
        old, begin = self.cluster.primary(), time.monotonic()
        self.cluster.kill_postmaster(old)
        wait_for("writes go on", FAILOVER_SECONDS_MAX, lambda: self.writer.since(begin + 0.5))
        self.cluster.settle()
        self.measure("longest pause of writes", self.writer.longest_pause(begin))

    def kill_leader(self):
        """kill -9 of the primary and its Patroni: another leads within the TTL; it comes back"""
        old, begin = self.cluster.primary(), time.monotonic()
        self.cluster.crash(old)
        new = self.await_other_primary(old, begin, FAILOVER_SECONDS_MAX)
        self.measure("another leads", self.watch.writable[new.n].first_yes(begin) - begin)
        wait_for("writes go on", 20, lambda: self.writer.since(begin + 1))
        self.measure("longest pause of writes", self.writer.longest_pause(begin))
        again = time.monotonic()
        old.patroni.start()
        self.cluster.settle()
        self.measure("old leader streams again", time.monotonic() - again)

    def kill_store(self):
        """kill -9 of the store's leader under load, three times: PostgreSQL does not notice"""
        with self.unnoticed():
            for _ in range(STORE_KILLS):
                leader = self.store.leader()
                self.store.members[leader].kill()
                time.sleep(3 * LOOP_WAIT)
                self.start_member(leader)
            time.sleep(TTL)  # The time in which a lease that was lost would show.

    def restart_store(self):
        """Every member of the store is restarted in turn under load: PostgreSQL does not notice"""
        with self.unnoticed():
            for n, member in self.store.members.items():
                member.terminate(30)
                self.start_member(n)
            time.sleep(TTL)

    def partition(self):
        """The primary and the store's leader are cut off: it gives way before another leads"""
        self.cut_off(lambda primary: primary.n)

    def partition_follower(self):
        """The primary and a follower of the store are cut off: it gives way before another leads"""
        self.cut_off(lambda primary: primary.n % hosts.COUNT + 1)

    def stop_store(self):
        """All members of the store stop for longer than the TTL: no primary, then one again"""
        begin = time.monotonic()
        self.store.stop_all()
        try:
            _, took = wait_for("the primary is demoted", TTL + 5,
                               lambda: not self.cluster.primary())
            self.measure("demoted after", took)
            self.sleep_until(begin + TTL + 10)
            if self.cluster.primary():
                raise Failed("a node leads without the store")
        finally:
            self.store.continue_all()
        again = time.monotonic()
        wait_for("a primary", FAILOVER_IN_PARTITION_SECONDS_MAX, self.cluster.primary)
        self.measure("a primary after the store is back", time.monotonic() - again)
        self.cluster.settle()

    def failsafe(self):
        """The same in failsafe mode: the primary stays while it reaches all nodes, and not else"""
        self.set_failsafe(True)
        before, begin = self.postgres_identity(), time.monotonic()
        self.store.stop_all()
        try:
            self.sleep_until(begin + TTL + 10)
            during = self.postgres_identity()
            self.measure("rows written while the store is stopped", str(self.writer.since(begin)))
            pause = self.writer.longest_pause(begin)
        finally:
            self.store.continue_all()
        self.cluster.settle()
        if not before == during == self.postgres_identity():
            raise Failed("PostgreSQL was restarted or led by another")
        self.measure("longest pause of writes", pause)

    def failsafe_alone(self):
        """Failsafe mode, the store stopped and one replica's Patroni dead: the primary gives way"""
        self.set_failsafe(True)
        self.store.stop_all()
        try:
            time.sleep(2 * LOOP_WAIT)
            old = self.cluster.primary()
            if not old:
                raise Failed("demoted although all nodes were there")
            dead = next(node for node in self.cluster.nodes.values() if node is not old)
            begin = time.monotonic()
            dead.patroni.kill()
            wait_for("the primary is demoted", TTL + 5, lambda: not self.cluster.primary())
            self.measure("demoted after", time.monotonic() - begin)
        finally:
            self.store.continue_all()
        again = time.monotonic()
        wait_for("a primary", FAILOVER_IN_PARTITION_SECONDS_MAX, self.cluster.primary)
        self.measure("a primary after the store is back", time.monotonic() - again)
        dead.patroni.start()
        self.cluster.settle()
        self.set_failsafe(False)

    def move(self):
        """Patroni moves to an empty store of syncraft, paused meanwhile: PostgreSQL goes on"""
        before, begin = self.postgres_identity(), time.monotonic()
        new = stores.Syncraft(self.work, client_port=2479)
        new.start()
        wait_for("the new store serves", 30, new.is_healthy)
        self.cluster.patronictl("pause", "--wait", SCOPE)
        primary = self.cluster.primary()
        for node in self.cluster.nodes.values():
            node.patroni.terminate(60)
            node.configure(new)
        # The primary's comes first, and is the leader by the time that the others come.
        primary.patroni.start()
        wait_for(f"{primary.name} leads", 30, self.cluster.primary_known_to_patroni)
        for node in self.cluster.replicas():
            node.patroni.start()
        for member in self.store.members.values():
            member.terminate(30)
        self.cluster.store = self.store = new
        self.cluster.settle()
        self.cluster.patronictl("resume", "--wait", SCOPE)
        if before != self.postgres_identity():
            raise Failed("PostgreSQL was restarted or led by another")
        self.measure("longest pause of writes on the way", self.writer.longest_pause(begin))
        self.switchover()

    def remove(self):
        """Patroni ends; patronictl remove leaves nothing in the store"""
        self.check_rows()
        for node in self.cluster.nodes.values():
            node.patroni.terminate(60)
        self.cluster.patronictl("remove", SCOPE, answers=f"{SCOPE}\nYes I am aware\n")
        _, left = self.store.call(1, "/v3/kv/range", {
            "key": "L3NlcnZpY2Uv", "range_end": "L3NlcnZpY2Uw", "keys_only": True})
        if left.get("count", "0") != "0":
            raise Failed(f"keys are left: {left}")

    # --- parts of scenarios -----------------------------------------------------------------------

    def start_member(self, n):
        self.store.members[n].start()
        wait_for("the store is whole", 60, self.store.is_healthy)
        time.sleep(LOOP_WAIT)

    @contextlib.contextmanager
    def unnoticed(self):
        """Puts load on the store while something happens to it, of which PostgreSQL must not notice
        anything: no node is restarted or demoted, and no Patroni calls the store inaccessible."""
        before, logs, load = self.postgres_identity(), self.log_marks(), self.start_load()
        begin = time.monotonic()
        try:
            yield
        finally:
            told, _ = load.communicate("", timeout=30)
        told = json.loads(told)
        self.measure("longest pause of the store's puts", told["longest_pause"])
        self.measure("puts per second meanwhile", f"{told['puts_per_second']:.0f}")
        self.measure("longest pause of writes", self.writer.longest_pause(begin))
        after = self.postgres_identity()
        if before != after:
            raise Failed(f"PostgreSQL was restarted or led by another: {before}, then {after}")
        bad = [line for line in self.log_lines(logs)
               if "DCS is not accessible" in line or "demot" in line]
        if bad:
            raise Failed(f"Patroni's logs: {''.join(bad[:5])}")

    def cut_off(self, store_leader):
        """Cuts the primary's host off while `store_leader(primary)` leads the store."""
        old = self.cluster.primary()
        self.cluster.lead_store_from(store_leader(old))
        begin = time.monotonic()
        hosts.isolate(old.n)
        try:
            new = self.await_other_primary(old, begin, FAILOVER_IN_PARTITION_SECONDS_MAX)
            gone = self.watch.writable[old.n].last_yes(begin)
            led = self.watch.writable[new.n].first_yes(begin)
            self.measure("gives way after", gone - begin)
            self.measure("another leads after", led - begin)
            time.sleep(2 * LOOP_WAIT)
            if gone >= led or old.is_primary():
                raise Failed(f"{new.name} led {gone - led:.1f} s before {old.name} gave way")
        finally:
            hosts.rejoin(old.n)
        again = time.monotonic()
        self.cluster.settle()
        self.measure("longest pause of writes", self.writer.longest_pause(begin))
        self.measure("whole again after", time.monotonic() - again)

    def set_failsafe(self, on):
        self.cluster.patronictl("edit-config", "--force", "--quiet",
                                "-s", f"failsafe_mode={str(on).lower()}", SCOPE)

        def is_known():
            if on and not self.cluster.stored("failsafe"):
                return False  # The primary has not written yet whom it has to reach.
            return all(f'"failsafe_mode": {str(on).lower()}' in (node.rest("/config") or (0, ""))[1]
                       for node in self.cluster.nodes.values())
        wait_for("failsafe_mode is known to all", 30, is_known)
        time.sleep(2 * LOOP_WAIT)

    def synchronous(self):
        """The node whose replica is synchronous."""
        return wait_for("a synchronous replica", 30, lambda: next(
            (node for node in self.cluster.nodes.values()
             if (node.rest("/synchronous") or (0,))[0] == 200), None))[0]

    def await_primary(self, node, begin, seconds):
        wait_for(f"{node.name} is the primary", seconds,
                 lambda: self.watch.writable[node.n].first_yes(begin)
                 and self.watch.primary[node.n].first_yes(begin))

    def await_other_primary(self, old, begin, seconds):
        others = [node for node in self.cluster.nodes.values() if node is not old]
        new, _ = wait_for("another node leads", seconds, lambda: next(
            (node for node in others if self.watch.writable[node.n].first_yes(begin)), None))
        self.await_primary(new, begin, 10)
        return new

    def postgres_identity(self):
        """Who leads, on which timeline, and since when each PostgreSQL runs."""
        primary = self.cluster.primary()
        return (primary and primary.name, primary and primary.state().get("timeline"),
                [str(node.started_at()) for node in self.cluster.nodes.values()])

    def start_load(self):
        addresses = [f"{hosts.control_address(n)}:{self.store.client_port}" for n in hosts.ALL]
        return subprocess.Popen(
            [sys.executable, "-B", os.path.join(os.path.dirname(__file__), "load.py"), *addresses],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def sleep_until(self, moment):
        time.sleep(max(0, moment - time.monotonic()))

    def log_marks(self):
        return {n: node.log_size() for n, node in self.cluster.nodes.items()}

    def log_lines(self, marks):
        return [line for n, node in self.cluster.nodes.items() for line in node.log_lines(marks[n])]

    def check_rows(self):
        """Every acknowledged row is on every node."""
        if not self.writer.is_alive():
            return
        self.writer.should_stop.set()
        self.writer.join(30)
        acknowledged = [n for n, _ in self.writer.acknowledged]
        self.measures["rows acknowledged"] = str(len(acknowledged))
        self.measures["rows with unknown outcome"] = str(self.writer.unknown)
        for node in self.cluster.nodes.values():
            def missing(node=node):
                rows = node.sql("select n from numbered")
                return rows is None or set(acknowledged) - {n for n, in rows}
            wait_for(f"all acknowledged rows on {node.name}: {sorted(missing())[:5]} are not there",
                     10, lambda: not missing())
        self.measures["of them missing at the end"] = "0"
        print(f"ok: all {len(acknowledged)} acknowledged rows are on all nodes", flush=True)

    # --- running them -----------------------------------------------------------------------------

    def measure(self, label, value):
        self.measures[f"{self.scenario}: {label}"] = value

    def run(self, scenario):
        self.scenario = scenario.replace("_", "-")
        if self.watch.primary[1].is_alive():
            self.cluster.settle()
        begin, logs = time.monotonic(), self.log_marks()
        getattr(self, scenario)()
        if self.watch.primary[1].is_alive():
            overlaps = self.watch.overlaps(begin)
            if overlaps:
                raise Failed(f"two leaders at once: {'; '.join(overlaps)}")
        self.measure("log lines of level ERROR", str(count_levels(self.log_lines(logs))))
        title = getattr(type(self), scenario).__doc__
        times = ", ".join(f"{label.partition(': ')[2]} {table.shown(value)}"
                          for label, value in self.measures.items()
                          if label.startswith(f"{self.scenario}: ") and isinstance(value, float))
        print(f"ok: {self.scenario}: {title}{': ' if times else ''}{times}", flush=True)


SCENARIOS = ["bootstrap", "replication", "edit_config", "switchover", "kill_postgres",
             "kill_leader", "kill_store", "restart_store", "partition", "partition_follower",
             "stop_store", "failsafe", "failsafe_alone", "remove"]
ON_DEMAND = ["move"]


def main(kind, work, *wanted):
    wanted = [name.replace("-", "_") for name in wanted] or SCENARIOS
    known = [*SCENARIOS, *ON_DEMAND]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.exit(f"patroni.sh: no such scenario: {', '.join(unknown)}; there are"
                 f" {', '.join(known).replace('_', '-')}")
    os.mkdir(work, 0o755)
    hosts.set_up()
    trial, failed = Trial(kind, work), None
    print(f"--- Patroni with {trial.store.version()}", flush=True)
    begin = time.monotonic()
    try:
        for scenario in dict.fromkeys(["bootstrap", *wanted]):
            trial.run(scenario)
        trial.check_rows()
    except (Failed, subprocess.SubprocessError, OSError) as error:
        failed = f"{trial.scenario}: {error}"
        print(f"FAILED: {failed}", *trial.cluster.symptoms(), sep="\n  ", flush=True)
    polls = sum(len(poll.samples) for poll in trial.watch.primary.values())
    trial.measures["polls of GET /primary, at no moment two leaders" if not failed else
                   "polls of GET /primary"] = str(polls)
    trial.measures["all of it took"] = time.monotonic() - begin
    with open(f"{work}/results.json", "w") as file:
        json.dump({"store": trial.store.version(), "measures": trial.measures, "failed": failed},
                  file)
    return 1 if failed else 0


if __name__ == "__main__":
    # The threads of the writer and the polls are left behind.
    status = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)
