#!/usr/bin/env python3
"""summarize.py counts what ran and never takes a crash or a missing result for success."""
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def report(*cases):
    """A GoogleTest report; a case is passed, failed, skipped or filtered."""
    states = {"passed": {"status": "RUN", "result": "COMPLETED"},
              "failed": {"status": "RUN", "result": "COMPLETED", "failures": [{"failure": "x"}]},
              "skipped": {"status": "RUN", "result": "SKIPPED"},
              "filtered": {"status": "NOTRUN", "result": "SUPPRESSED"}}
    tests = [{"name": f"C{i}", **states[case]} for i, case in enumerate(cases)]
    return json.dumps({"testsuites": [{"name": "S", "testsuite": tests}]})


def run(files, *suites):
    """Last line and exit status of summarize.py over a folder with these files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        done = subprocess.run([sys.executable, os.path.join(HERE, "summarize.py"), folder, *suites],
                              capture_output=True, text=True, check=False)
    return done.stdout.strip().split("\n")[-1], done.returncode


CASES = [
    ("all kinds of cases", {"a.rc": "1", "a.json": report("passed", "failed", "skipped", "filtered")},
     ["a"], ("1 passed, 1 failed, 1 skipped", 1)),
    ("two suites", {"a.rc": "0", "a.json": report("passed", "passed"), "b.rc": "0",
                    "b.log": "ok x\n3 passed, 0 failed, 2 skipped\n"},
     ["a", "b"], ("5 passed, 0 failed, 2 skipped", 0)),
    ("a crash leaves no report", {"a.rc": "139", "a.log": "Segmentation fault\n"},
     ["a"], ("0 passed, 1 failed, 0 skipped", 1)),
    ("a report cut short", {"a.rc": "0", "a.json": report("passed")[:20]},
     ["a"], ("0 passed, 1 failed, 0 skipped", 1)),
    ("a bad end after good cases", {"a.rc": "1", "a.json": report("passed")},
     ["a"], ("1 passed, 1 failed, 0 skipped", 1)),
    ("a missing program", {}, ["a"], ("0 passed, 1 failed, 0 skipped", 1)),
    ("totals that are not the last line", {"a.rc": "0", "a.log": "1 passed, 0 failed, 0 skipped\nx"},
     ["a"], ("0 passed, 1 failed, 0 skipped", 1)),
    ("nothing passed", {"a.rc": "0", "a.json": report("skipped")},
     ["a"], ("0 passed, 0 failed, 1 skipped", 1)),
]


def main():
    failed = 0
    for name, files, suites, expected in CASES:
        found = run(files, *suites)
        if found != expected:
            failed += 1
            print(f"FAIL {name}: {found}, expected {expected}")
    print(f"{len(CASES) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
