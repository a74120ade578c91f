"""`make bench`: CPU per Check of both transports, of a floor server, and through a real Envoy. It prints figures and asserts none.

The exit code is 1 when an answer was wrong: each is looked at.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from bench import report
from bench.rows import ROWS, measure
from bench.servers import LOAD_CORE, SERVER_CORE, Bench, on_core


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, requests and tenants")
    parser.add_argument("--row", action="append", choices=[row.name for row in ROWS], help="only this one; repeatable")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--tenants", type=int)
    parser.add_argument("--json", type=Path, help="every single measurement, to this file")
    parser.add_argument("--against", type=Path, help="a file of --json: say which rows differ from it by more than a tenth")
    given = parser.parse_args()
    rows = tuple(row for row in ROWS if not given.row or row.name in given.row)
    rounds = given.rounds or (3 if given.quick else 5)
    many = given.tenants or (1_000 if given.quick else 10_000)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="extauthz-bench-") as folder:
        needs_many = any(row.tenants in {"many", "cold"} for row in rows)
        bench = Bench(Path(folder), many if needs_many else 1)
        try:
            with on_core(LOAD_CORE):
                measured = measure(bench, rows, rounds, lambda text: print(text, file=sys.stderr), is_quick=given.quick)
        finally:
            bench.stop()
    shared = " (the same: only ratios mean something)" if SERVER_CORE == LOAD_CORE else ""
    load = os.getloadavg()[0]
    print(f"Server on core {SERVER_CORE}, load and Redis on core {LOAD_CORE}{shared}; {rounds} rounds; load average {load:.1f}")
    print(report.table(measured, many))
    for line in report.summary(measured):
        print(line)
    for line in report.differences(measured, json.loads(given.against.read_text())) if given.against else ():
        print(line)
    print(f"{time.monotonic() - begun:.0f} s")
    if given.json:
        given.json.write_text(json.dumps(report.as_json(measured), indent=1))
    for what, count in measured.failures.items():
        print(f"WRONG ANSWER, {count} times: {what}", file=sys.stderr)
    return 1 if measured.failures else 0


if __name__ == "__main__":
    sys.exit(main())
