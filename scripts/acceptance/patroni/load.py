"""Puts load on the store from a few connections until it is told to end (by the end of its input);
prints how it went as JSON. Runs as a process of its own, so that it does not slow the watchers."""

import base64
import http.client
import json
import random
import sys
import threading
import time

CONNECTIONS = 8
KEYS = 1000
VALUE = base64.b64encode(b"x" * 256).decode()
stop = threading.Event()
answered, failures = [], []


def put_until_stopped(addresses):
    connection = None
    while not stop.is_set():
        try:
            if connection is None:
                connection = http.client.HTTPConnection(random.choice(addresses), timeout=3)
            key = base64.b64encode(b"/load/%d" % random.randrange(KEYS)).decode()
            connection.request("POST", "/v3/kv/put", json.dumps({"key": key, "value": VALUE}))
            answer = connection.getresponse()
            answer.read()
            (answered if answer.status == 200 else failures).append(time.monotonic())
        except (OSError, http.client.HTTPException):
            failures.append(time.monotonic())
            connection.close()
            connection = None
            time.sleep(0.02)


def main(addresses):
    begin = time.monotonic()
    threads = [threading.Thread(target=put_until_stopped, args=(addresses,))
               for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    times = sorted(answered)
    pause = max((b - a for a, b in zip(times, times[1:])), default=None)
    print(json.dumps({"puts_per_second": len(times) / (time.monotonic() - begin),
                      "longest_pause": pause, "failures": len(failures)}))


if __name__ == "__main__":
    main(sys.argv[1:])
