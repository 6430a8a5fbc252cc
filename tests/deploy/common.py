"""What the tests of deployment share: paths, a daemon from any folder, counting."""
import os
import shutil
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
BUILD = os.path.abspath(os.environ.get("PALU_BUILD_DIR", os.path.join(ROOT, "build", "release")))
BINARY = os.path.join(BUILD, "server", "palu-server")
MODEL = os.path.join(ROOT, "models", "classics-14m")


def need(*programs):
    """Skips the test where one of the programs is missing."""
    for program in programs:
        if shutil.which(program) is None:
            raise unittest.SkipTest(f"{program} is not installed")


def read(*parts):
    with open(os.path.join(ROOT, *parts), encoding="utf-8") as file:
        return file.read()


def main():
    """Runs the calling module's tests; the last line has the totals."""
    if len(sys.argv) > 1:
        loaded = unittest.defaultTestLoader.loadTestsFromNames(
            sys.argv[1:], sys.modules["__main__"])
    else:
        loaded = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(loaded)
    bad = len(result.failures) + len(result.errors)
    skips = len(result.skipped)
    print(f"{max(result.testsRun - bad - skips, 0)} passed, {bad} failed, {skips} skipped")
    sys.exit(1 if bad else 0)
