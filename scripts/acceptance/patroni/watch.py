"""What goes on all the time: who leads, asked of every node every 100 ms, and a writer of numbered
rows. Both see hosts that are cut off from the others."""

import bisect
import http.client
import select
import threading
import time

import psycopg2
import psycopg2.extensions

import hosts

PERIOD_SECONDS = 0.1
SQL_SECONDS_MAX = 5
WRITE_PAUSE_SECONDS = 0.02


def wait_with_deadline(connection):
    """Waits for PostgreSQL's answer, but not for ever: libpq has no deadline for a query."""
    deadline = time.monotonic() + SQL_SECONDS_MAX
    while True:
        state = connection.poll()
        if state == psycopg2.extensions.POLL_OK:
            return
        reads = [connection] if state == psycopg2.extensions.POLL_READ else []
        writes = [connection] if state == psycopg2.extensions.POLL_WRITE else []
        left = deadline - time.monotonic()
        if left <= 0 or not any(select.select(reads, writes, [], left)):
            raise TimeoutError("no answer from PostgreSQL")


psycopg2.extensions.set_wait_callback(wait_with_deadline)


def connect(host):
    connection = psycopg2.connect(
        host=hosts.control_address(host), port=5432, user="postgres", dbname="postgres")
    connection.autocommit = True
    return connection


class Poll(threading.Thread):
    """Asks one node a question of yes and no every 100 ms, and remembers the answers."""

    def __init__(self, host):
        super().__init__(daemon=True)
        self.host = host
        self.samples = []  # (asked at, answered at, whether yes), in this order.
        self.asked_at = []
        self.should_stop = threading.Event()

    def run(self):
        due = time.monotonic()
        while not self.should_stop.is_set():
            begin = time.monotonic()
            answer = self.ask()
            self.samples.append((begin, time.monotonic(), answer))
            self.asked_at.append(begin)
            due = max(due + PERIOD_SECONDS, time.monotonic())
            time.sleep(due - time.monotonic() if due > time.monotonic() else 0)

    def since(self, begin):
        """The answers to what was asked at `begin` or later."""
        return self.samples[bisect.bisect_left(self.asked_at, begin):]

    def spans(self, begin):
        """When the answer was yes for certain: from the end of the first request of a row that was
        answered so to the start of the last one. A row breaks at a "no" and at a silence."""
        spans, first, last = [], None, None
        for asked, answered, yes in self.since(begin):
            if yes:
                first, last = (answered if first is None else first), asked
            if not yes and first is not None:
                spans.append((first, max(first, last)))
                first = None
        if first is not None:
            spans.append((first, max(first, last)))
        return spans

    def first_yes(self, begin):
        """When the first "yes" after `begin` had come; None: there was none."""
        return next((answered for _, answered, yes in self.since(begin) if yes), None)

    def last_yes(self, begin):
        """When the last question was asked that was answered with "yes"."""
        return next((asked for asked, _, yes in reversed(self.since(begin)) if yes), None)


class PrimaryPoll(Poll):
    """Whether Patroni says 200 to `GET /primary`: what load balancers go by."""

    def ask(self):
        connection = http.client.HTTPConnection(
            hosts.control_address(self.host), 8008, timeout=2)
        try:
            connection.request("GET", "/primary")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class WritablePoll(Poll):
    """Whether PostgreSQL takes writes, whatever Patroni says."""

    def __init__(self, host):
        super().__init__(host)
        self.connection = None

    def ask(self):
        try:
            if self.connection is None:
                self.connection = connect(self.host)
            with self.connection.cursor() as cursor:
                cursor.execute("select pg_is_in_recovery()")
                return cursor.fetchone() == (False,)
        except (psycopg2.Error, TimeoutError):
            if self.connection is not None:
                self.connection.close()
                self.connection = None
            return False


class Watch:
    """All polls of all nodes."""

    def __init__(self):
        self.primary = {n: PrimaryPoll(n) for n in hosts.ALL}
        self.writable = {n: WritablePoll(n) for n in hosts.ALL}

    def start(self):
        for poll in (*self.primary.values(), *self.writable.values()):
            poll.start()

    def overlaps(self, begin):
        """Every moment after `begin` at which two nodes led, in words."""
        found = []
        for what, polls in (("GET /primary", self.primary), ("PostgreSQL", self.writable)):
            spans = [(first, last, n) for n, poll in polls.items() for first, last in
                     poll.spans(begin)]
            spans.sort()
            for k, (first, last, n) in enumerate(spans):
                found += [f"{what} of hosts {n} and {other} for {min(last, end) - start:.1f} s"
                          for start, end, other in spans[k + 1:] if start < last and other != n]
        return found


class Writer(threading.Thread):
    """Inserts numbered rows through whichever node takes writes, and remembers which inserts were
    acknowledged. A number is used once, whatever becomes of it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.acknowledged = []  # (number, acknowledged at)
        self.unknown = 0
        self.should_stop = threading.Event()

    def run(self):
        number, connection = 0, None
        while not self.should_stop.is_set():
            connection = connection or self.connect_to_primary()
            if connection is None:
                time.sleep(PERIOD_SECONDS)
                continue
            number += 1
            try:
                with connection.cursor() as cursor:
                    cursor.execute("insert into numbered values (%s)", (number,))
                # A commit that gave up waiting for its replica succeeds with a warning.
                if any("canceling" in notice for notice in connection.notices):
                    raise psycopg2.OperationalError("not replicated")
                self.acknowledged.append((number, time.monotonic()))
                time.sleep(WRITE_PAUSE_SECONDS)
            except (psycopg2.Error, TimeoutError):
                self.unknown += 1
                connection.close()
                connection = None

    def connect_to_primary(self):
        for host in hosts.ALL:
            try:
                connection = connect(host)
            except (psycopg2.Error, TimeoutError):
                continue
            try:
                with connection.cursor() as cursor:
                    cursor.execute("select pg_is_in_recovery()")
                    if cursor.fetchone() == (False,):
                        return connection
            except (psycopg2.Error, TimeoutError):
                pass
            connection.close()
        return None

    def since(self, begin):
        return sum(1 for _, at in self.acknowledged if at >= begin)

    def longest_pause(self, begin):
        """The longest time without an acknowledgement from `begin` until now."""
        times = [begin, *(at for _, at in self.acknowledged if at >= begin), time.monotonic()]
        return max(b - a for a, b in zip(times, times[1:]))
