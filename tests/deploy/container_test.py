#!/usr/bin/env python3
"""Dockerfile and compose file; and the image itself where PALU_IMAGE names one that podman has (of
tests/deploy/build_image):
PALU_IMAGE=localhost/palu-server:0.1.0 [PALU_PODMAN="podman --runtime runc"] tests/deploy/container_test.py
PALU_COMPOSE=docker-compose starts what compose.yaml says of the server and Prometheus, from images that are
there, on its ports."""
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import threading
import time
import unittest
import urllib.request

from common import ROOT, main, need, read

COMPOSE = os.path.join(ROOT, "deploy", "docker", "compose.yaml")
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
            self.assertRegex(text, r"HEALTHCHECK .*:\$\{PALU_HTTP_PORT:-8000\}/health")
            for label in ("title", "description", "version", "licenses", "revision"):
                self.assertRegex(text, rf'org\.opencontainers\.image\.{label}="[^"]+"')
            self.assertIn("STOPSIGNAL SIGTERM", lines)
            # What is copied, or only removed by a later line, stays in the image.
            self.assertEqual([line for line in lines if line.startswith("COPY")], [])

    def test_versions_are_those_of_the_project(self):
        version = re.search(r"project\(palu-server VERSION ([\d.]+)", read("CMakeLists.txt")).group(1)
        for text in (read("Dockerfile"), read("deploy/docker/compose.yaml"),
                     read("deploy/k8s/base/deployment.yaml"),
                     read("deploy/helm/palu-server/Chart.yaml")):
            found = set(re.findall(r'(?:palu-server:|version="|appVersion: ")(\d+\.\d+\.\d+)', text))
            self.assertEqual(found, {version})


def settings_in(name):
    """A YAML file of deploy/docker."""
    try:
        import yaml  # pylint: disable=import-outside-toplevel
    except ImportError:
        raise unittest.SkipTest("yaml is not installed") from None
    return yaml.safe_load(read("deploy", "docker", name))


class ComposeTest(unittest.TestCase):
    """The compose file and what it mounts; prometheus_test.py runs a Prometheus so."""

    def setUp(self):
        self.services = settings_in("compose.yaml")["services"]

    def mounts(self, service):
        """Path in the container to path here."""
        found = {}
        for mount in self.services[service]["volumes"]:
            here, there, mode = mount.split(":")
            self.assertEqual(mode, "ro", mount)
            found[there] = os.path.normpath(os.path.join(ROOT, "deploy", "docker", here))
            self.assertTrue(os.path.exists(found[there]), mount)
        return found

    def test_the_server_is_closed_and_has_longer_than_a_drain(self):
        server = self.services["palu-server"]
        self.assertIs(server["read_only"], True)
        self.assertEqual((server["cap_drop"], server["tmpfs"]), (["ALL"], ["/tmp"]))
        self.assertIn(server["build"]["target"], stages())
        drain = int(re.search(r"drain_timeout: (\d+)s", read("config/palu_server.yaml")).group(1))
        self.assertGreater(int(server["stop_grace_period"].rstrip("s")), drain)
        for name, value in server["environment"].items():
            self.assertIn(f"`{name}`", read("docs", "configuration.md"), value)

    def test_nothing_is_reachable_from_elsewhere(self):
        for name, service in self.services.items():
            for port in service["ports"]:
                self.assertTrue(port.startswith("127.0.0.1:"), f"{name}: {port}")

    def test_prometheus_scrapes_the_server_and_grafana_asks_prometheus(self):
        folder = self.mounts("prometheus")
        self.assertEqual(folder["/etc/prometheus/prometheus.yml"],
                         os.path.join(ROOT, "deploy", "docker", "prometheus.yaml"))
        config = settings_in("prometheus.yaml")
        for rules in config["rule_files"]:
            self.assertIn(os.path.join("/etc/prometheus", rules), folder)
        (job,) = config["scrape_configs"]
        (target,) = job["static_configs"][0]["targets"]
        self.assertEqual(target, "palu-server:" + self.inside("palu-server"))
        self.assertIn(f'job="{job["job_name"]}"', read("deploy", "prometheus", "rules.yaml"))
        (source,) = settings_in("grafana-datasource.yaml")["datasources"]
        self.assertEqual(source["url"], "http://prometheus:" + self.inside("prometheus"))

    def test_grafana_finds_the_dashboard(self):
        folder = self.mounts("grafana")
        (provider,) = settings_in("grafana-dashboards.yaml")["providers"]
        home = self.services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        self.assertEqual(os.path.dirname(home), provider["options"]["path"])
        self.assertIn(os.path.basename(home), os.listdir(folder[provider["options"]["path"]]))

    def inside(self, service):
        """The first published port as the other services see it."""
        return self.services[service]["ports"][0].split(":")[-1]

    def test_compose_itself_reads_it(self):
        need("docker-compose")
        done = subprocess.run(["docker-compose", "-f", COMPOSE, "config", "--quiet"], check=False,
                              capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


def long_request(port):
    """Starts one of 600 tokens and waits until it runs; the result waits for its end and tells how
    many came."""
    counts = []

    def ask():
        body = json.dumps({"prompt": "The sea", "max_tokens": 600, "ignore_eos": True}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", body,
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            counts.append(json.load(answer)["usage"]["completion_tokens"])

    worker = threading.Thread(target=ask)
    worker.start()
    while not re.search(r"^vllm:num_requests_running.* 1$", get(port, "/metrics"), re.M):
        assert worker.is_alive(), "over before it was seen to run"

    def end():
        worker.join()
        return counts[0] if counts else 0

    return end


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
                    "--health-interval", "disable", "--cap-drop", "all", "--network", "host",
                    "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096",
                    "-e", f"PALU_HTTP_PORT={self.port}", "-e", f"PALU_GRPC_PORT={grpc}",
                    "-e", "PALU_HTTP_ADDRESS=127.0.0.1", "-e", "PALU_CACHE_MEMORY=64MiB", self.image)
        self.addCleanup(self.podman, "rm", "-f", self.name)
        end = time.time() + 60
        while not self.is_ready():
            self.assertLess(time.time(), end)
            time.sleep(0.2)

    def podman(self, *args):
        return subprocess.run([*PODMAN, *args], check=True, capture_output=True, text=True).stdout

    def is_ready(self):
        try:
            get(self.port, "/ready")
            return True
        except OSError:
            return False

    def test_labels(self):
        labels = json.loads(self.podman("image", "inspect", "--format", "{{json .Labels}}", self.image))
        version = self.podman("exec", self.name, "palu-server", "--version")
        self.assertIn(f"palu-server {labels['org.opencontainers.image.version']}\n", version)
        self.assertIn(f"commit {labels['org.opencontainers.image.revision']}\n", version)

    def test_the_compiler_stayed_behind(self):
        for program in ("c++", "cmake", "ninja", "git"):
            found = self.podman("exec", self.name, "sh", "-c", f"command -v {program} || echo none")
            self.assertEqual(found, "none\n")
        left = self.podman("exec", self.name, "find", "/mnt", "/tmp", "/var/lib/apt/lists", "-type", "f")
        self.assertEqual(left, "")

    def test_life(self):
        status = self.podman("exec", self.name, "cat", "/proc/1/status")
        self.assertRegex(status, r"Uid:\s+10001")
        self.assertRegex(status, r"CapBnd:\s+0000000000000000")
        self.assertIn("tini", self.podman("exec", self.name, "cat", "/proc/1/comm"))
        written = subprocess.run([*PODMAN, "exec", self.name, "touch", "/x"], check=False,
                                 capture_output=True)
        self.assertNotEqual(written.returncode, 0)
        self.podman("healthcheck", "run", self.name)
        answer = long_request(self.port)
        self.podman("stop", "-t", "40", self.name)
        self.assertEqual(answer(), 600)
        self.assertEqual(self.podman("inspect", "--format", "{{.State.ExitCode}}",
                                     self.name).strip(), "0")


class ComposeRunTest(unittest.TestCase):
    """Server and Prometheus as compose starts them; DOCKER_HOST may be podman's socket."""

    def setUp(self):
        self.command = shlex.split(os.environ.get("PALU_COMPOSE", ""))
        if not self.command:
            self.skipTest("PALU_COMPOSE is not set: no containers are started by a test")
        self.addCleanup(self.compose, "down")
        self.stopping = threading.Event()
        worker = threading.Thread(target=self.check_health)
        worker.start()
        self.addCleanup(worker.join)
        self.addCleanup(self.stopping.set)
        self.compose("up", "-d", "--no-build", "palu-server", "prometheus")

    def compose(self, *args):
        done = subprocess.run([*self.command, "-p", "palutest", "-f", COMPOSE, *args], check=False,
                              capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def check_health(self):
        """Where there is no systemd, podman has nobody who looks after the health checks."""
        while shutil.which(PODMAN[0]) and not self.stopping.wait(1):
            found = subprocess.run([*PODMAN, "ps", "-q", "--filter", "name=palutest"], check=False,
                                   capture_output=True, text=True).stdout.split()
            for container in found:
                subprocess.run([*PODMAN, "healthcheck", "run", container], check=False,
                               capture_output=True)

    def prometheus(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:9090/api/v1/{path}", timeout=20) as answer:
            return json.load(answer)["data"]

    def is_scraped(self):
        try:
            return self.prometheus("query?query=palu:kv_cache_capacity_tokens")["result"] != []
        except OSError:
            return False

    def test_prometheus_scrapes_the_healthy_server_and_stop_drains_it(self):
        end = time.time() + 90  # scrapes are 15 s apart
        while not self.is_scraped():
            self.assertLess(time.time(), end)
            time.sleep(1)
        (target,) = self.prometheus("targets")["activeTargets"]
        self.assertEqual((target["scrapeUrl"], target["health"]), ("http://palu-server:8000/metrics", "up"))
        rules = [rule for group in self.prometheus("rules")["groups"] for rule in group["rules"]]
        self.assertEqual(len(rules), len(re.findall(r"- (?:record|alert):",
                                                    read("deploy/prometheus/rules.yaml"))))
        answer = long_request(8000)
        self.compose("stop")
        self.assertEqual(answer(), 600)


if __name__ == "__main__":
    main()
