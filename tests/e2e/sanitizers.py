"""What sanitizers report about the programs that a case runs, however those end."""

import glob
import os
import re
import shutil
import subprocess
import tempfile
import threading

# UndefinedBehaviorSanitizer of GCC writes to stderr whatever log_path says.
ON_STDERR = re.compile(r": runtime error: |ERROR: \w+Sanitizer|WARNING: ThreadSanitizer")
MOST_CHARACTERS = 20000


def built_with(binary):
    """The sanitizers of one of our programs, e.g. "address,undefined"; "" if it has none."""
    told = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=120,
                          check=False).stdout
    found = re.search(r"sanitizers (\S+)", told)
    return "" if found is None or found.group(1) == "none" else found.group(1)


class Reports:
    """Has every sanitized program that is started from now on write its reports here."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="palu-sanitizers-")
        self.lock = threading.Lock()
        self.lines = []
        self.taken = {}  # file: bytes that were given out; a running program may write more
        self.environment = {}
        for name in ("ASAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS"):
            given = os.environ.get(name)
            self.environment[name] = (f"{given}:" if given else "") + (
                f"log_path={os.path.join(self.directory, 'report')}")

    def note(self, line):
        """A line that a program wrote to stderr."""
        if ON_STDERR.search(line):
            with self.lock:
                self.lines.append(line)

    def take(self):
        """What was reported since the last call; "" if nothing was."""
        with self.lock:
            texts, self.lines = self.lines, []
        for path in sorted(glob.glob(os.path.join(self.directory, "report*"))):
            with open(path, encoding="utf-8", errors="replace") as file:
                file.seek(self.taken.get(path, 0))
                texts.append(file.read(MOST_CHARACTERS))
                file.seek(0, os.SEEK_END)
                self.taken[path] = file.tell()
        return "\n".join(text for text in texts if text)

    def close(self):
        shutil.rmtree(self.directory, ignore_errors=True)
