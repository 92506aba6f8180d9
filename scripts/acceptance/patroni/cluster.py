"""PostgreSQL under Patroni on every host, and what can be asked of it."""

import base64
import http.client
import json
import os
import pwd
import re
import signal
import subprocess
import sys
import time

import psycopg2

import hosts
import watch

TTL, LOOP_WAIT, RETRY_TIMEOUT = 20, 2, 4
SCOPE = "batman"
USER = "postgres"
REST_PORT, SQL_PORT = 8008, 5432

CONFIG = """\
scope: {scope}
name: pg{n}
restapi: {{listen: '0.0.0.0:{rest_port}', connect_address: '{address}:{rest_port}'}}
etcd3: {{hosts: '{store}'}}
bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: {loop_wait}
    retry_timeout: {retry_timeout}
    synchronous_mode: true
    postgresql:
      use_pg_rewind: true
      parameters: {{max_connections: 40, shared_buffers: 16MB, max_wal_size: 128MB}}
  initdb: [encoding: UTF8, data-checksums]
postgresql:
  listen: '0.0.0.0:{sql_port}'
  connect_address: '{address}:{sql_port}'
  data_dir: {work}/pg{n}/data
  bin_dir: {bin}
  pgpass: {work}/pg{n}/pgpass
  authentication:
    superuser: {{username: postgres, password: secret}}
    replication: {{username: replicator, password: secret}}
    rewind: {{username: rewind, password: secret}}
  parameters: {{unix_socket_directories: {work}/pg{n}}}
  pg_hba:
    - local all all trust
    - local replication all trust
    - host all all 0.0.0.0/0 trust
    - host replication all 0.0.0.0/0 trust
"""


class Failed(Exception):
    """A scenario did not go as it has to."""


def wait_for(what, seconds, condition):
    """Waits until `condition` returns something; returns that and how long it took."""
    begin = time.monotonic()
    while True:
        value = condition()
        if value:
            return value, time.monotonic() - begin
        if time.monotonic() - begin > seconds:
            raise Failed(f"not within {seconds} s: {what}")
        time.sleep(0.1)


class Node:
    """Patroni and PostgreSQL on one host."""

    def __init__(self, n, work, store):
        self.n, self.name, self.work = n, f"pg{n}", work
        home = f"{work}/pg{n}"
        os.mkdir(home, 0o700)
        user = pwd.getpwnam(USER)
        os.chown(home, user.pw_uid, user.pw_gid)
        self.config = f"{work}/pg{n}.yml"
        self.configure(store)
        self.patroni = hosts.Process(
            n, ["env", f"HOME={home}", program("patroni"), self.config], f"{work}/pg{n}.log", USER)

    def configure(self, store):
        """Writes Patroni's configuration, with `store` to be used from its next start on."""
        with open(self.config, "w") as file:
            file.write(CONFIG.format(
                n=self.n, work=self.work, address=hosts.address(self.n), bin=os.environ["PG_BIN"],
                scope=SCOPE, ttl=TTL, loop_wait=LOOP_WAIT, retry_timeout=RETRY_TIMEOUT,
                store=",".join(f"{hosts.address(k)}:{store.client_port}" for k in hosts.ALL),
                rest_port=REST_PORT, sql_port=SQL_PORT))

    def rest(self, path, seconds=2):
        """Asks Patroni: the status and the text of the answer; None if there is none."""
        connection = http.client.HTTPConnection(
            hosts.control_address(self.n), REST_PORT, timeout=seconds)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def state(self):
        """What `GET /patroni` says, decoded; {} if it says nothing."""
        answer = self.rest("/patroni")
        return json.loads(answer[1]) if answer else {}

    def sql(self, query, *values):
        """The rows of a query; None if it fails."""
        try:
            connection = watch.connect(self.n)
        except (psycopg2.Error, TimeoutError):
            return None
        try:
            with connection.cursor() as cursor:
                cursor.execute(query, values or None)
                return cursor.fetchall() if cursor.description else []
        except (psycopg2.Error, TimeoutError):
            return None
        finally:
            connection.close()

    def is_primary(self):
        return self.sql("select pg_is_in_recovery()") == [(False,)]

    def started_at(self):
        """When this PostgreSQL was started; None if it does not run."""
        return self.sql("select pg_postmaster_start_time()")

    def log_size(self):
        return os.path.getsize(self.patroni.log) if os.path.exists(self.patroni.log) else 0

    def log_lines(self, begin):
        """The lines of Patroni's log from the position `begin`."""
        with open(self.patroni.log, errors="replace") as log:
            log.seek(begin)
            return log.readlines()


def program(name):
    return os.path.join(os.path.dirname(sys.executable), name)


class Cluster:
    def __init__(self, store, work):
        self.store = store
        self.nodes = {n: Node(n, work, store) for n in hosts.ALL}

    def primary(self):
        """The node whose PostgreSQL takes writes, or None."""
        return next((node for node in self.nodes.values() if node.is_primary()), None)

    def primary_known_to_patroni(self):
        """The node that Patroni calls the primary, or None."""
        return next((node for node in self.nodes.values()
                     if (node.rest("/primary") or (0,))[0] == 200), None)

    def replicas(self):
        return [node for node in self.nodes.values() if not node.is_primary()]

    def is_whole(self):
        """Whether the store serves, one node leads, and the others stream from it, one of them
        synchronously, and Patroni knows."""
        primary = self.primary_known_to_patroni()
        if primary is None or not self.store.is_healthy():
            return False
        streams = primary.sql(
            "select application_name, sync_state from pg_stat_replication"
            " where state = 'streaming' and application_name like 'pg%'")
        if streams is None or len(streams) != hosts.COUNT - 1:
            return False
        timeline = primary.state().get("timeline")
        states = [node.state() for node in self.nodes.values()]
        synchronous = {name for name, state in streams if state == "sync"}
        sync = next((node.name for node in self.nodes.values()
                     if (node.rest("/synchronous") or (0,))[0] == 200), None)
        return (all(state.get("state") in ("running", "streaming") for state in states)
                and all(state.get("timeline") == timeline or
                        state.get("replication_state") == "streaming" for state in states)
                and sync in synchronous)

    def settle(self, seconds=90):
        """Waits until all is well; returns how long that took."""
        return wait_for("the cluster is whole", seconds, self.is_whole)[1]

    def symptoms(self):
        """What may explain a failure: who does not run, who leads, and the last errors."""
        processes = {f"member {n} of the store": member for n, member in self.store.members.items()}
        processes |= {f"Patroni {node.name}": node.patroni for node in self.nodes.values()}
        yield from (f"{name} does not run" for name, process in processes.items()
                    if not process.is_running())
        yield f"the store is led by member {self.store.leader()}"
        yield f"the store says who is synchronous: {self.stored('sync')}"
        for node in self.nodes.values():
            yield f"{node.name}: primary: {node.is_primary()}, Patroni says {node.state()}"
            if node.log_size():
                lines = [line for line in node.log_lines(0) if LEVEL.match(line)]
                yield from (line.rstrip()[:300] for line in lines[-3:])

    def stored(self, name):
        """What the store has under a name of Patroni's, in text; None if it does not answer."""
        key = base64.b64encode(f"/service/{SCOPE}/{name}".encode()).decode()
        try:
            kvs = self.store.call(1, "/v3/kv/range", {"key": key})[1].get("kvs", [])
            return [base64.b64decode(kv.get("value", "")).decode() for kv in kvs]
        except (OSError, ValueError, AttributeError):
            return None

    def patronictl(self, *words, host=1, answers=None):
        """Runs patronictl on `host`; returns what it prints."""
        command = hosts.command(
            host, [program("patronictl"), "-c", self.nodes[host].config, *words])
        done = subprocess.run(command, input=answers or "", stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=120)
        if done.returncode != 0:
            raise Failed(f"patronictl {' '.join(words)}: status {done.returncode}: {done.stdout}")
        return done.stdout

    def lead_store_from(self, host):
        """Makes the member on `host` the store's leader."""
        def leads():
            if self.store.leader() == host:
                return True
            self.store.transfer(host)
            return False
        wait_for(f"the store is led by member {host}", 30, leads)
        self.settle()

    def crash(self, node):
        """`kill -9` of everything on the node's host but the member of the store."""
        hosts.kill_all_but(node.n, self.store.members[node.n])
        node.patroni.process.wait()

    def kill_postmaster(self, node):
        """`kill -9` of PostgreSQL's first process. The others notice that it is gone."""
        with open(f"{node.work}/pg{node.n}/data/postmaster.pid") as file:
            os.kill(int(file.readline()), signal.SIGKILL)


LEVEL = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ (ERROR|WARNING|CRITICAL): ")


def count_levels(lines):
    """How many lines of a Patroni log are of level ERROR or above."""
    return sum(1 for line in lines
               if (found := LEVEL.match(line)) and found[1] in ("ERROR", "CRITICAL"))
