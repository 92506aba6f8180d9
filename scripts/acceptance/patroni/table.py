"""Prints the results of one or several runs, each a file of JSON, as one table."""

import json
import os
import sys


def main(paths):
    runs = []
    for path in filter(os.path.exists, paths):
        with open(path) as file:
            runs.append(json.load(file))
    if not runs:
        return
    labels = list(dict.fromkeys(label for run in runs for label in run["measures"]))
    print("| | " + " | ".join(run["store"] for run in runs) + " |")
    print("| --- |" + " ---: |" * len(runs))
    for label in labels:
        values = (shown(run["measures"].get(label)) for run in runs)
        print(f"| {label} | " + " | ".join(values) + " |")


def shown(value):
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.1f} s" if value >= 0.95 else f"{1000 * value:.0f} ms"


if __name__ == "__main__":
    main(sys.argv[1:])
