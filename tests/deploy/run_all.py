#!/usr/bin/env python3
"""All tests of deployment, one program after the other; ends with the totals of all."""
import argparse
import glob
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build-dir", required=True)
    args = parser.parse_args()
    environment = {**os.environ, "PALU_BUILD_DIR": os.path.abspath(args.build_dir)}
    totals = [0, 0, 0]
    for program in sorted(glob.glob(os.path.join(HERE, "*_test.py"))):
        print(f"== {os.path.basename(program)}", flush=True)
        done = subprocess.run([sys.executable, program], env=environment, text=True, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        print(done.stdout, flush=True)
        last = done.stdout.strip().split("\n")[-1]
        found = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) skipped", last)
        counts = [int(n) for n in found.groups()] if found else [0, 1, 0]
        if done.returncode != 0 and counts[1] == 0:
            counts[1] = 1
        totals = [a + b for a, b in zip(totals, counts)]
    print("{} passed, {} failed, {} skipped".format(*totals))
    return 1 if totals[1] else 0


if __name__ == "__main__":
    sys.exit(main())
