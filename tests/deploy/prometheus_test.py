#!/usr/bin/env python3
"""Dashboard, rules and metrics reference against the real daemon, scraped by a real Prometheus
while requests run."""
import json
import math
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import unittest

from common import BINARY, MODEL, ROOT, main, need, read
from harness import Server
from scraper import Prometheus

RULES = os.path.join(ROOT, "deploy", "prometheus", "rules.yaml")
# What the dashboards that vLLM ships ask for, old names and new.
VLLM_QUERIES = [
    f"histogram_quantile(0.99, sum by(le) (rate(vllm:{name}_bucket"
    '{model_name="$model_name"}[$__rate_interval])))'
    for name in ("e2e_request_latency_seconds", "time_per_output_token_seconds",
                 "inter_token_latency_seconds", "time_to_first_token_seconds")
] + [
    f'rate(vllm:{name}{{model_name="$model_name"}}[$__rate_interval])'
    for name in ("prompt_tokens_total", "generation_tokens_total", "request_queue_time_seconds_sum",
                 "request_prefill_time_seconds_sum", "request_decode_time_seconds_sum",
                 "request_max_num_generation_tokens_sum")
] + [
    f'vllm:{name}{{model_name="$model_name"}}'
    for name in ("num_requests_running", "num_requests_waiting", "gpu_cache_usage_perc",
                 "kv_cache_usage_perc")
] + [
    f'sum by({by}) (increase(vllm:{name}{{model_name="$model_name"}}[$__rate_interval]))'
    for by, name in (("le", "request_prompt_tokens_bucket"),
                     ("le", "request_generation_tokens_bucket"),
                     ("finished_reason", "request_success_total"))
]


def dashboard():
    return json.loads(read("deploy", "grafana", "palu-server.json"))


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def call_grpc(port):
    """One call without a client library: an empty message in its frame of five bytes."""
    subprocess.run(["curl", "-s", "--http2-prior-knowledge", "-o", os.devnull, "--max-time", "10",
                    "-H", "content-type: application/grpc", "-H", "te: trailers",
                    "--data-binary", "@-",
                    f"http://127.0.0.1:{port}/palu.v1.InferenceService/GetModelInfo"],
                   input=b"\0" * 5, check=True)


class ScrapeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need("prometheus", "curl")
        Server.binary = BINARY
        cls.server = Server(MODEL, ["--engine.max_sequences=4"])
        cls.addClassCleanup(cls.server.kill)
        cls.folder = tempfile.mkdtemp(prefix="palu-prometheus-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.prometheus = cls.start("prometheus")
        cls.prometheus.wait_for("up == 1")
        cls.began = time.time()
        cls.run_load(seconds=10)
        cls.ended = time.time()

    @classmethod
    def start(cls, name):
        """A Prometheus with deploy/NAME/prometheus.yaml and the rules beside it, as compose mounts
        them; faster, and with this test's server in the place of its own."""
        config = read("deploy", name, "prometheus.yaml").replace("15s", "500ms")
        config = re.sub(r'"(localhost|palu-server):8000"', f'"127.0.0.1:{cls.server.port}"', config)
        folder = os.path.join(cls.folder, name)
        os.mkdir(folder)
        shutil.copy(RULES, folder)
        path = os.path.join(folder, "prometheus.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(config)
        prometheus = Prometheus(path, folder)
        cls.addClassCleanup(prometheus.end)
        return prometheus

    @classmethod
    def run_load(cls, seconds):
        end = time.time() + seconds

        def client(number):
            while time.time() < end:
                cls.server.completion(prompt=f"The sea was {number} and wide, they said, " * 4,
                                      max_tokens=24, n=2, ignore_eos=True)

        workers = [threading.Thread(target=client, args=(number,)) for number in range(4)]
        for worker in workers:
            worker.start()
        while time.time() < end:
            call_grpc(cls.server.grpc_port)
            time.sleep(0.5)
        for worker in workers:
            worker.join()

    def values(self, query):
        """What a panel would draw of the time under load: finite numbers."""
        for variable, value in (("$model_name", "classics-14m"), ("$__rate_interval", "5s"),
                                ("$instance", ".*")):
            query = query.replace(variable, value)
        self.assertNotIn("$", query)
        found = self.prometheus.ask("query_range", query=query, start=self.began,
                                    end=self.ended + 2, step="1s")["result"]
        return [float(v) for series in found for _, v in series["values"]
                if math.isfinite(float(v))]

    def test_every_panel_has_data(self):
        self.assertGreater(len(panels()), 20)
        for panel in panels():
            for target in panel["targets"]:
                self.assertTrue(self.values(target["expr"]), (panel["title"], target["expr"]))

    def test_panels_move_with_the_load(self):
        wanted = {"Tokens a second", "Time to first token", "Batch", "HTTP answers a second",
                  "gRPC answers a second", "Cache bytes", "Prefix hits"}
        for panel in panels():
            if panel["title"] in wanted:
                wanted.remove(panel["title"])
                for target in panel["targets"]:
                    self.assertGreater(max(self.values(target["expr"])), 0, target["expr"])
        self.assertEqual(wanted, set())

    def test_what_the_scaler_asks_for_moves_with_the_load(self):
        queries = re.findall(r"^ +query: (?:>-\n)?((?:.*\n)+?) +threshold:",
                             read("deploy", "k8s", "overlays", "gateway", "scaledobject.yaml"), re.M)
        self.assertEqual(len(queries), 2)
        for query in queries:
            self.assertGreater(max(self.values(" ".join(query.split()))), 0, query)

    def test_the_settings_of_compose_scrape_too(self):
        prometheus = self.start("docker")
        prometheus.wait_for('vllm:num_requests_running{job="palu-server"}')
        names = [[rule["name"] for group in p.ask("rules")["groups"] for rule in group["rules"]]
                 for p in (prometheus, self.prometheus)]
        self.assertEqual(*names)

    def test_vllm_dashboards_work_unchanged(self):
        for query in VLLM_QUERIES:
            self.assertTrue(self.values(query), query)

    def test_rules_are_evaluated_and_a_healthy_server_raises_no_alert(self):
        rules = [rule for group in self.prometheus.ask("rules")["groups"] for rule in group["rules"]]
        self.assertGreater(len(rules), 15)
        for rule in rules:
            self.assertEqual(rule["health"], "ok", rule)
            if rule["type"] == "alerting":
                self.assertNotEqual(rule["state"], "firing", rule["name"])
        for rule in rules:
            if rule["type"] == "recording":
                self.assertTrue(self.values(rule["name"]), rule["name"])


class RulesTest(unittest.TestCase):
    def test_every_alert_fires_and_keeps_quiet_when_it_should(self):
        need("promtool")
        done = subprocess.run(
            ["promtool", "test", "rules", os.path.join(ROOT, "tests", "deploy", "rules_test.yaml")],
            capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_every_alert_is_tested_and_has_its_place_in_the_runbook(self):
        with open(RULES, encoding="utf-8") as file:
            text = file.read()
        alerts = re.findall(r"- alert: (\w+)", text)
        self.assertGreater(len(alerts), 10)
        tests = read("tests", "deploy", "rules_test.yaml")
        runbook = read("docs", "runbook.md")
        for alert in alerts:
            self.assertIn(f"name: {alert} fires", tests)
            self.assertIn(f"name: {alert} is quiet", tests)
            self.assertIn(f"\n## {alert}\n", runbook)
            self.assertIn(f"runbook_url: docs/runbook.md#{alert.lower()}\n", text)
        self.assertEqual(set(re.findall(r"^## (Palu\w+)$", runbook, re.M)), set(alerts))


class DashboardTest(unittest.TestCase):
    def test_panels_lie_side_by_side_and_are_told_apart(self):
        ids = [panel["id"] for panel in dashboard()["panels"]]
        self.assertEqual(len(ids), len(set(ids)))
        taken = set()
        for panel in dashboard()["panels"]:
            at = panel["gridPos"]
            self.assertLessEqual(at["x"] + at["w"], 24)
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                     for y in range(at["y"], at["y"] + at["h"])}
            self.assertEqual(cells & taken, set(), panel["title"])
            taken |= cells


class ReferenceTest(unittest.TestCase):
    """docs/metrics.md is what /metrics says of itself."""

    def test_reference_is_complete(self):
        need("curl")
        Server.binary = BINARY
        server = Server(MODEL)
        try:
            server.completion(prompt="a", max_tokens=2)
            call_grpc(server.grpc_port)
            text = server.get("/metrics").body.decode()
        finally:
            server.kill()
        rows = []
        for name, help_text, kind in re.findall(
                r"^# HELP (\S+) (.*)\n# TYPE \S+ (\w+)", text, re.M):
            labels = set()
            for found in re.findall(rf"^{re.escape(name)}(?:_sum)?{{(.*)}} ", text, re.M):
                labels |= set(re.findall(r'(\w+)="', found))
            shown = " ".join(sorted(labels - {"model_name", "engine"}))
            rows.append(f"| `{name}` | {kind} | {shown} | {help_text} |\n")
        path = os.path.join(ROOT, "docs", "metrics.md")
        page = read("docs", "metrics.md")
        head, table = page.split("|---|---|---|---|\n")
        if os.environ.get("PALU_UPDATE_DOCS"):
            with open(path, "w", encoding="utf-8") as file:
                file.write(head + "|---|---|---|---|\n" + "".join(rows))
            return
        self.assertEqual(table.splitlines(keepends=True), rows,
                         "run this test with PALU_UPDATE_DOCS=1")


if __name__ == "__main__":
    main()
