#!/usr/bin/env python3
"""Adds up what suites left in a folder and ends with `N passed, N failed, N skipped`.

usage: summarize.py DIR SUITE...   For each suite DIR holds SUITE.rc (exit status) and either
SUITE.json (GoogleTest's report) or SUITE.log, whose last line is `N passed, N failed, N skipped`.
A suite without a result, or that ended badly without naming a failure, counts as one failure.
Every failure is named in a line that begins with two spaces and `failed: `; what was said of it
follows, indented by four.
Exit 1 if anything failed or nothing passed.
"""
import json
import os
import re
import sys

TOTALS = re.compile(r"(\d+) passed, (\d+) failed, (\d+) skipped$")
# A failure in a log, and what ends the text that belongs to it.
FAILURE = re.compile(r"(?:FAIL|FAIL:|ERROR:) (\S.*)")
NEXT = re.compile(r"(?:PASS|SKIP|FAIL|FAIL:|ERROR:|ok|==+|--+$|Ran) ?")
DETAIL_LINES = 30


def read(path):
    if not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def named(name, said):
    """The note on a failure: its name and the first and last lines of what was said of it."""
    said = [line for line in said if line.strip()]
    if len(said) > DETAIL_LINES:
        said = said[:DETAIL_LINES // 2] + ["..."] + said[-DETAIL_LINES // 2:]
    return "\n    ".join([name, *(line[:300] for line in said)])


def from_gtest(text):
    """(passed, failed, skipped, notes on the failed) of a GoogleTest report."""
    passed = skipped = 0
    failures = []
    for suite in json.loads(text)["testsuites"]:
        for case in suite["testsuite"]:
            if case.get("failures"):
                said = "\n".join(failure["failure"] for failure in case["failures"])
                failures.append(named(f"{suite['name']}.{case['name']}", said.split("\n")))
            elif case.get("status") == "NOTRUN" or case.get("result") in ("SKIPPED", "SUPPRESSED"):
                # Cases left out by a filter are not reported as skipped.
                skipped += case.get("result") == "SKIPPED"
            else:
                passed += 1
    return passed, len(failures), skipped, failures


def from_log(text):
    lines = text.strip().split("\n")
    match = TOTALS.match(lines[-1].strip())
    return (*map(int, match.groups()), failures_in(lines)) if match else None


def failures_in(lines):
    notes, name, said = [], None, []
    for line in lines:  # of which the last one has the totals
        failure = FAILURE.match(line)
        ends = failure or TOTALS.match(line) or (said and NEXT.match(line))
        if name is not None and not ends:
            said += [] if re.fullmatch(r"-{10,}", line) else [line]
            continue
        if name is not None:
            notes.append(named(name, said))
        name, said = (failure[1][:300], []) if failure else (None, [])
    return notes


def summarize(folder, suite):
    """(passed, failed, skipped, what to say about failures) of one suite."""
    status = read(os.path.join(folder, suite + ".rc"))
    report = read(os.path.join(folder, suite + ".json"))
    log = read(os.path.join(folder, suite + ".log")) or ""
    try:
        counts = from_gtest(report) if report else from_log(log)
    except (ValueError, KeyError, TypeError):
        counts = None
    if status is None:
        return 0, 1, 0, ["was not run"]
    if counts is None:
        return 0, 1, 0, [f"ended with status {status.strip()} and without a result"]
    passed, failed, skipped, notes = counts
    if status.strip() != "0" and failed == 0:
        return passed, 1, skipped, [f"ended with status {status.strip()} though nothing failed"]
    return passed, failed, skipped, notes


def main():
    folder, suites = sys.argv[1], sys.argv[2:]
    totals = [0, 0, 0]
    print(f"{'suite':<14}{'passed':>8}{'failed':>8}{'skipped':>9}")
    for suite in suites:
        *counts, notes = summarize(folder, suite)
        totals = [a + b for a, b in zip(totals, counts)]
        print(f"{suite:<14}{counts[0]:>8}{counts[1]:>8}{counts[2]:>9}")
        for note in notes:
            print(f"  failed: {note}")
    print("{} passed, {} failed, {} skipped".format(*totals))
    return 0 if totals[1] == 0 and totals[0] > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
