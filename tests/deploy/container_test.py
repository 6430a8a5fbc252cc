#!/usr/bin/env python3
"""Dockerfile and compose file; and the image itself where PALU_IMAGE names one that podman has:
PALU_IMAGE=localhost/palu-server:0.1.0 [PALU_PODMAN="podman --runtime runc"] tests/deploy/container_test.py"""
import json
import os
import re
import shlex
import socket
import subprocess
import threading
import time
import unittest
import urllib.request

from common import main, read

PODMAN = shlex.split(os.environ.get("PALU_PODMAN", "podman"))


def stages():
    """Name of each stage to its instructions, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", read("Dockerfile"), flags=re.M).replace("\\\n", " ")
    found = {}
    for part in re.split(r"^FROM ", text, flags=re.M)[1:]:
        head, *lines = part.strip().split("\n")
        found[head.split(" AS ")[1].strip()] = lines
    return found


class DockerfileTest(unittest.TestCase):
    def test_both_targets_run_as_nobody_special_with_an_init_and_a_health_check(self):
        for target in ("cpu", "cuda"):
            lines = stages()[target]
            text = "\n".join(lines)
            self.assertIn("USER 10001:10001", lines)
            self.assertRegex(text, r'ENTRYPOINT \["/usr/bin/tini", "--", "/usr/bin/palu-server"\]')
            self.assertRegex(text, r"HEALTHCHECK .*/health")
            self.assertRegex(text, r"LABEL .*org.opencontainers.image.version=")
            self.assertIn("STOPSIGNAL SIGTERM", lines)
            # Compilers and sources stay in the stage that builds.
            self.assertEqual([line for line in lines if line.startswith("COPY . ")], [])

    def test_versions_are_those_of_the_project(self):
        version = re.search(r"project\(palu-server VERSION ([\d.]+)", read("CMakeLists.txt")).group(1)
        for text in (read("Dockerfile"), read("deploy/docker/compose.yaml"),
                     read("deploy/k8s/base/deployment.yaml"),
                     read("deploy/helm/palu-server/Chart.yaml")):
            found = set(re.findall(r'(?:palu-server:|version="|appVersion: ")(\d+\.\d+\.\d+)', text))
            self.assertEqual(found, {version})

    def test_compose_mounts_what_is_there_and_waits_longer_than_a_drain(self):
        text = read("deploy/docker/compose.yaml")
        for mount in re.findall(r"- (\.\.?/\S+?):", text):
            path = os.path.normpath(os.path.join("deploy/docker", mount))
            read_or_list = os.path.join(os.path.dirname(__file__), "..", "..", path)
            self.assertTrue(os.path.exists(read_or_list), mount)
        grace = int(re.search(r"stop_grace_period: (\d+)s", text).group(1))
        drain = int(re.search(r"drain_timeout: (\d+)s", read("config/palu_server.yaml")).group(1))
        self.assertGreater(grace, drain)
        self.assertIn("read_only: true", text)


class ImageTest(unittest.TestCase):
    def setUp(self):
        self.image = os.environ.get("PALU_IMAGE")
        if not self.image:
            raise unittest.SkipTest("PALU_IMAGE is not set: no image is built by a test")
        with socket.socket() as one, socket.socket() as two:
            for probe in (one, two):
                probe.bind(("127.0.0.1", 0))
            self.port, grpc = one.getsockname()[1], two.getsockname()[1]
        self.name = f"palu-test-{os.getpid()}"
        self.podman("run", "-d", "--name", self.name, "--read-only", "--tmpfs", "/tmp",
                    "--no-healthcheck", "--cap-drop", "all", "--network", "host",
                    "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096",
                    "-e", f"PALU_HTTP_PORT={self.port}", "-e", f"PALU_GRPC_PORT={grpc}",
                    "-e", "PALU_HTTP_ADDRESS=127.0.0.1", "-e", "PALU_CACHE_MEMORY=64MiB", self.image)
        self.addCleanup(self.podman, "rm", "-f", self.name)
        end = time.time() + 60
        while self.status("/ready") != 200:
            self.assertLess(time.time(), end)
            time.sleep(0.2)

    def podman(self, *args):
        return subprocess.run([*PODMAN, *args], check=True, capture_output=True, text=True).stdout

    def status(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status
        except OSError:
            return 0

    def test_life(self):
        status = self.podman("exec", self.name, "cat", "/proc/1/status")
        self.assertRegex(status, r"Uid:\s+10001")
        self.assertRegex(status, r"CapBnd:\s+0000000000000000")
        self.assertIn("tini", self.podman("exec", self.name, "cat", "/proc/1/comm"))
        written = subprocess.run([*PODMAN, "exec", self.name, "touch", "/x"], check=False,
                                 capture_output=True)
        self.assertNotEqual(written.returncode, 0)
        (check,) = [line for line in stages()["cpu"] if line.startswith("HEALTHCHECK")]
        command = json.loads(check.split("CMD ")[1])
        self.podman("exec", self.name, *[word.replace("8000", str(self.port)) for word in command])
        answers = []

        def long_request():
            body = json.dumps({"prompt": "The sea", "max_tokens": 300, "ignore_eos": True}).encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.port}/v1/completions", body,
                {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                answers.append(json.load(answer)["usage"]["completion_tokens"])

        worker = threading.Thread(target=long_request)
        worker.start()
        time.sleep(0.5)
        self.podman("stop", "-t", "40", self.name)
        worker.join()
        self.assertEqual(answers, [300])
        self.assertEqual(self.podman("inspect", "--format", "{{.State.ExitCode}}",
                                     self.name).strip(), "0")


if __name__ == "__main__":
    main()
