"""Prints what became of each scenario of Patroni's features, in each directory that is given: one
for each store, with behave's results as FEATURE.json. Ends with status 1 if one failed."""

import glob
import json
import os
import sys

STATES = ("passed", "failed", "skipped", "not run")


def results(directory):
    """From (feature, scenario) to what became of it."""
    found = {}
    for path in sorted(glob.glob(f"{directory}/*.json")):
        try:
            with open(path) as file:
                features = json.load(file)
        except ValueError:
            # behave writes the end of the document when it ends by itself.
            found[os.path.basename(path)[:-5], "(was not finished in time)"] = "failed"
            continue
        for feature in features:
            for element in feature.get("elements", []):
                if element["type"] == "scenario":
                    state = element.get("status", "not run")
                    state = {"untested": "not run", "error": "failed"}.get(state, state)
                    found[feature["name"], element["name"]] = state
    return found


def main(directories):
    stores = {os.path.basename(directory): results(directory) for directory in directories}
    for name in dict.fromkeys(name for found in stores.values() for name in found):
        states = "  ".join(f"{found.get(name, 'not run'):8}" for found in stores.values())
        print(f"{states}  {name[0]}: {name[1]}")
    for store, found in stores.items():
        counts = {state: list(found.values()).count(state) for state in STATES}
        print(f"{store}: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    return any(state == "failed" for found in stores.values() for state in found.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
