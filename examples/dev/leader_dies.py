#!/usr/bin/env python3
"""Writes while the leader dies, and checks that nothing acknowledged was lost.
Run it as: syncraft dev -- examples/dev/leader_dies.py"""

import os
import time
import urllib.error
import urllib.request

MEMBERS = os.environ["SYNCRAFT_HTTP_ALL"].split()
KILL = os.environ["SYNCRAFT_DEV"] + "/v1/dev/kill?member=leader"


def send(method, url, body=None):
    request = urllib.request.Request(url, data=body, method=method)
    return urllib.request.urlopen(request, timeout=20).read()


def ask(method, key, body=None):
    """Asks one member after the other until one does it."""
    for attempt in range(600):
        time.sleep(0.1 if attempt else 0)
        for member in MEMBERS:
            try:
                return send(method, f"{member}/v1/kv/{key}", body)
            except urllib.error.HTTPError as error:
                assert error.code in (503, 504), error  # told to try again
            except OSError:  # this member is dead
                pass
    raise TimeoutError("no member answers")


for i in range(40):
    ask("PUT", f"item-{i}", b"value %d" % i)
    if i == 20:
        print(send("POST", KILL).decode())
for i in range(40):
    assert ask("GET", f"item-{i}") == b"value %d" % i, f"item-{i} is lost"
print("40 writes were acknowledged, and none is lost")
