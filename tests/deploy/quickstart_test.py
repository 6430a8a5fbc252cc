#!/usr/bin/env python3
"""deploy/quickstart and deploy/install_packages as a user meets them; ends with the totals."""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
QUICKSTART = os.path.join(ROOT, "deploy", "quickstart")
INSTALL = os.path.join(ROOT, "deploy", "install_packages")
# Long enough for a first build on a small machine.
SECONDS = 1100


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def quickstart(*options, timeout=60):
    """Run from a foreign working directory, as users do."""
    return subprocess.run([QUICKSTART, *options], cwd="/", capture_output=True, text=True,
                          timeout=timeout, check=False)


class ArgumentsTest(unittest.TestCase):
    def test_mistakes_are_one_clear_error(self):
        for options, said in ((("--bogus",), "unknown option --bogus"),
                              (("--http-port", "99999"), "\"99999\" is no port"),
                              (("--http-port", "x"), "\"x\" is no port"),
                              (("--http-port",), "--http-port needs a value"),
                              (("--http-port", "9", "--grpc-port", "9"), "different ports")):
            done = quickstart(*options)
            self.assertEqual(done.returncode, 1, options)
            self.assertIn("error: ", done.stderr)
            self.assertIn(said, done.stderr)

    def test_a_busy_port_is_named_before_anything_is_built(self):
        with socket.socket() as busy:
            busy.bind(("127.0.0.1", 0))
            busy.listen()
            taken = str(busy.getsockname()[1])
            other = str(free_ports(1)[0])
            for flag, rest in (("--http-port", "--grpc-port"), ("--grpc-port", "--http-port")):
                done = quickstart(flag, taken, rest, other)
                self.assertEqual(done.returncode, 1)
                self.assertIn(f"port {taken} is busy", done.stderr)
                self.assertIn(f"{flag} N", done.stderr)
                self.assertNotIn("[1/5]", done.stdout)


class InstallPackagesTest(unittest.TestCase):
    """With stand-ins for apt and dpkg, so that nothing is installed by a test."""

    def install(self, user, **tools):
        with tempfile.TemporaryDirectory() as folder:
            calls = os.path.join(folder, "calls")
            stand_ins = {"id": f"echo {user}", "dpkg-query": "exit 1", "apt-cache": "exit 0",
                         "apt-get": f'echo "$@" >> {calls}'}
            for name, body in {**stand_ins, **tools}.items():
                path = os.path.join(folder, name)
                with open(path, "w", encoding="utf-8") as file:
                    file.write(f"#!/bin/bash\n{body}\n")
                os.chmod(path, 0o755)
            done = subprocess.run([INSTALL, "build"], capture_output=True, text=True, check=False,
                                  env={**os.environ, "PATH": folder + ":" + os.environ["PATH"]})
            if os.path.exists(calls):
                with open(calls, encoding="utf-8") as file:
                    return done, file.read()
            return done, ""

    def test_nothing_is_asked_where_all_is_there(self):
        done, calls = self.install(1000, **{"dpkg-query": "echo -n installed"})
        self.assertEqual((done.returncode, done.stdout, done.stderr, calls), (0, "", "", ""))

    def test_without_root_the_command_is_given(self):
        done, calls = self.install(1000)
        self.assertEqual(done.returncode, 1)
        self.assertIn("sudo apt-get update && sudo apt-get install -y", done.stderr)
        self.assertIn("libgrpc++-dev", done.stderr)
        self.assertEqual(calls, "")

    def test_without_network_it_says_so(self):
        done, _ = self.install(0, **{"apt-get": "echo 'Temporary failure resolving'; exit 100"})
        self.assertEqual(done.returncode, 1)
        self.assertIn("without a network connection", done.stderr)
        self.assertIn("Temporary failure resolving", done.stderr)

    def test_root_installs_the_name_that_the_release_has(self):
        known = 'case "$2" in *1.81*) echo "  Candidate: (none)";; *) echo "  Candidate: 9";; esac'
        done, calls = self.install(0, **{"apt-cache": known})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("libboost1.83-dev", calls)
        self.assertNotIn("libboost1.81-dev", calls)
        self.assertNotIn("libgtest-dev", calls)


class ServeTest(unittest.TestCase):
    def test_once_prints_a_completion_and_leaves_nothing_running(self):
        http, grpc = free_ports(2)
        done = quickstart("--once", "--http-port", str(http), "--grpc-port", str(grpc),
                          timeout=SECONDS)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        answers = [line for line in done.stdout.split("\n") if line.startswith("{")]
        self.assertEqual(len(answers), 1, done.stdout)
        answer = json.loads(answers[0])
        self.assertEqual(answer["model"], "classics-14m")
        self.assertGreater(len(answer["choices"][0]["text"]), 20)
        self.assertGreater(answer["usage"]["completion_tokens"], 10)
        # The start says what the cache costs: an eighth of the uncompressed one.
        costs = re.search(r"KV per token ([\d.]+) bytes .* against ([\d.]+) uncompressed", done.stdout)
        self.assertLessEqual(float(costs.group(1)) * 8, float(costs.group(2)))
        self.assertFalse(is_open(http) or is_open(grpc))

    def test_it_stays_until_interrupted(self):
        http, grpc = free_ports(2)
        with subprocess.Popen(
                [QUICKSTART, "--http-port", str(http), "--grpc-port", str(grpc)], cwd="/",
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                start_new_session=True) as process:
            try:
                output = ""
                deadline = time.time() + SECONDS
                while "Ctrl-C stops it." not in output and time.time() < deadline:
                    line = process.stdout.readline()
                    if not line:
                        break
                    output += line
                self.assertIn("Ctrl-C stops it.", output)
                self.assertTrue(is_open(http) and is_open(grpc))
                # As a terminal does: the signal goes to the whole group.
                os.killpg(process.pid, signal.SIGINT)
                self.assertEqual(process.wait(timeout=60), 0)
                self.assertFalse(is_open(http) or is_open(grpc))
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    bad = len(result.failures) + len(result.errors)
    skips = len(result.skipped)
    print(f"{result.testsRun - bad - skips} passed, {bad} failed, {skips} skipped")
    sys.exit(1 if bad else 0)
