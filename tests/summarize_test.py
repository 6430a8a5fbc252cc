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
    text, status = run_whole(files, *suites)
    return text.strip().split("\n")[-1], status


def run_whole(files, *suites):
    """All that it prints, and its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        done = subprocess.run([sys.executable, os.path.join(HERE, "summarize.py"), folder, *suites],
                              capture_output=True, text=True, check=False)
    return done.stdout, done.returncode


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


# Log or report of a suite with failures, and what must be said of them.
NOTES = [
    ("e2e", {"a.rc": "1", "a.log": "PASS e2e.x.y 0.1s\nFAIL e2e.x.z 0.2s\nTraceback:\n  the cause\n"
                                   "PASS e2e.x.w 0.1s\n2 passed, 1 failed, 0 skipped\n"},
     ["  failed: e2e.x.z 0.2s", "    Traceback:", "      the cause"]),
    ("unittest", {"a.rc": "1", "a.log": "test_b (T) ... FAIL\n\n" + "=" * 70 + "\nFAIL: test_b (T)\n" +
                                        "-" * 70 + "\nthe cause\n\n" + "-" * 70 + "\nRan 2 tests\n\n"
                                        "1 passed, 1 failed, 0 skipped\n"},
     ["  failed: test_b (T)", "    the cause"]),
    ("two in a row without a word", {"a.rc": "1", "a.log": "FAIL one\nFAIL two\n"
                                                           "1 passed, 2 failed, 0 skipped\n"},
     ["  failed: one", "  failed: two"]),
    ("GoogleTest", {"a.rc": "1", "a.json": report("passed", "failed")}, ["  failed: S.C1", "    x"]),
]


def notes_of(files):
    return [line for line in run_whole(files, "a")[0].split("\n")
            if line.startswith(("  failed: ", "    "))]


def main():
    failed = 0
    for name, files, expected in NOTES:
        found = notes_of(files)
        if found != expected:
            failed += 1
            print(f"FAIL notes on {name}: {found}, expected {expected}")
    for name, files, suites, expected in CASES:
        found = run(files, *suites)
        if found != expected:
            failed += 1
            print(f"FAIL {name}: {found}, expected {expected}")
    print(f"{len(CASES) + len(NOTES) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
