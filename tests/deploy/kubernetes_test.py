#!/usr/bin/env python3
"""Kustomize overlays and the Helm chart: rendered, validated offline, and what they promise (probes,
drain, scaling, fetching a model) tried on the real daemon with this test as kubelet."""
import functools
import http.server
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from common import BINARY, MODEL, ROOT, main, need, read
from harness import Server

try:
    import jsonschema
    import kubernetes_validate
    import yaml
except ImportError as missing:
    print(f"0 passed, 0 failed, 1 skipped ({missing.name} is not installed)".split(" (")[0])
    sys.exit(0)

OVERLAYS = ("cpu-demo", "gpu", "gateway")
VERSIONS = ("1.28", "1.31")
USUAL = {"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"}
# Besides the usual ones.
EXPECTED = {"cpu-demo": set(), "gpu": {"PersistentVolumeClaim"},
            "gateway": {"PersistentVolumeClaim", "InferencePool", "HTTPRoute", "ScaledObject", "PodMonitor"}}
CHART = os.path.join(ROOT, "deploy", "helm", "palu-server")
# What a person might set, each with the kinds that must come out besides the usual ones.
VALUES = {
    "default": ({}, set()),
    "gpu": ({"gpus": 1, "model": {"source": "fetch", "url": "https://example.com/m", "tokenSecret":
                                  "hf"}}, {"PersistentVolumeClaim"}),
    "all": ({"gpus": 2, "replicas": 3, "model": {"source": "claim", "claim": "models"},
             "monitor": {"kind": "PodMonitor", "labels": {"release": "p"}},
             "autoscaling": {"enabled": True}, "inferencePool": {"enabled": True},
             "env": [{"name": "PALU_LOG_LEVEL", "value": "debug"}], "nodeSelector": {"a": "b"},
             "tolerations": [{"key": "k", "operator": "Exists"}],
             "config": {"engine": {"max_sequences": 128}}, "apiKeysSecret": "palu-keys", "podAnnotations": {"x": "y"},
             "networkPolicy": {"from": [{"namespaceSelector": {}}]}},
            {"PodMonitor", "ScaledObject", "InferencePool"}),
    "service monitor": ({"monitor": {"kind": "ServiceMonitor"},
                         "networkPolicy": {"enabled": False}}, {"ServiceMonitor"}),
}
BAD_VALUES = ({"gpus": -1}, {"gpu": 1}, {"model": {"source": "nowhere"}}, {"model": {"source": "fetch"}},
              {"model": {"source": "claim"}}, {"monitor": {"kind": "Monitor"}}, {"replicas": "two"})


@functools.lru_cache(None)
def overlay(name):
    need("kubectl")
    version = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True,
                             check=False).stdout
    if "Kustomize Version" not in version:
        raise unittest.SkipTest("kubectl is too old: its kustomize has no labels and patches")
    done = subprocess.run(["kubectl", "kustomize", os.path.join(ROOT, "deploy/k8s/overlays", name)],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    if done.stderr:
        raise AssertionError(f"kustomize warns: {done.stderr}")
    return [d for d in yaml.safe_load_all(done.stdout) if d]


@functools.lru_cache(None)
def renderer():
    """helm itself, or a program around the same template engine."""
    need("go")
    program = os.path.join(tempfile.mkdtemp(prefix="palu-helm-"), "helm_render")
    cache = os.path.join(tempfile.gettempdir(), f"palu-go-cache-{os.getuid()}")
    done = subprocess.run(
        ["go", "build", "-o", program, "."], cwd=os.path.join(ROOT, "tests/deploy/helm_render"),
        env={**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": cache},
        capture_output=True, text=True, check=False)
    if "cannot find package" in done.stderr:
        raise unittest.SkipTest("golang-github-masterminds-sprig-dev is not installed")
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return program


def chart(values):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        command = [renderer(), CHART, "demo", file.name]
        if shutil.which("helm"):
            command = ["helm", "template", "demo", CHART, "-f", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return [d for d in yaml.safe_load_all(done.stdout) if d]


def of_kind(documents, kind):
    return next(d for d in documents if d["kind"] == kind)


def settings(documents):
    """The text of palu_server.yaml."""
    return next(d["data"]["palu_server.yaml"] for d in documents
                if d["kind"] == "ConfigMap" and "palu_server.yaml" in d["data"])


class Checks(unittest.TestCase):
    """What holds of every rendering, whoever made it."""

    def check_all(self, documents):
        schemas = json.loads(read("tests", "deploy", "crd_schemas.json"))
        for document in documents:
            own = schemas.get(f"{document['apiVersion']}/{document['kind']}")
            if own is not None:
                jsonschema.validate(document["spec"], own)
                continue
            self.assertNotIn(".io/", document["apiVersion"].replace(".k8s.io/", ""))
            for version in VERSIONS:
                kubernetes_validate.validate(document, version, strict=True)
        self.check_pod(of_kind(documents, "Deployment"), documents)

    def check_pod(self, deployment, documents):
        spec = deployment["spec"]["template"]["spec"]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        self.assertIs(spec["enableServiceLinks"], False)
        self.assertIs(spec["automountServiceAccountToken"], False)
        self.assertIs(spec["securityContext"]["runAsNonRoot"], True)
        volumes = {v["name"] for v in spec["volumes"]}
        for container in spec["containers"] + spec.get("initContainers", []):
            security = container["securityContext"]
            self.assertIs(security["readOnlyRootFilesystem"], True)
            self.assertIs(security["allowPrivilegeEscalation"], False)
            self.assertEqual(security["capabilities"], {"drop": ["ALL"]})
            self.assertLessEqual({m["name"] for m in container["volumeMounts"]}, volumes)
            self.assertIn("memory", container["resources"]["limits"])
        (server,) = spec["containers"]
        config = yaml.safe_load(settings(documents))
        drain = int(config["shutdown"]["drain_timeout"].rstrip("s"))
        before = int(server["lifecycle"]["preStop"]["exec"]["command"][1])
        self.assertGreater(spec["terminationGracePeriodSeconds"], drain + before)
        ports = {p["name"]: p["containerPort"] for p in server["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            self.assertIn(server[probe]["httpGet"]["port"], ports)
        for kind, path in (("Service", ("spec", "selector")),
                           ("PodDisruptionBudget", ("spec", "selector", "matchLabels")),
                           ("NetworkPolicy", ("spec", "podSelector", "matchLabels")),
                           ("PodMonitor", ("spec", "selector", "matchLabels")),
                           ("InferencePool", ("spec", "selector", "matchLabels"))):
            for document in documents:
                if document["kind"] != kind:
                    continue
                found = document
                for key in path:
                    found = found[key]
                self.assertTrue(found, kind)
                self.assertLessEqual(found.items(), labels.items(), kind)
        self.check_settings(config, server)

    def check_settings(self, config, server):
        """The daemon takes the rendered settings."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(config, file)
            file.flush()
            done = subprocess.run(
                [BINARY, "--check-config", "--config", file.name], capture_output=True, text=True,
                env={e["name"]: e["value"] for e in server.get("env", []) if "value" in e},
                check=False)
            self.assertEqual(done.returncode, 0, done.stderr)


class RenderTest(Checks):
    def test_overlays(self):
        for name in OVERLAYS:
            with self.subTest(name):
                self.assertEqual({d["kind"] for d in overlay(name)}, USUAL | EXPECTED[name])
                self.check_all(overlay(name))

    def test_chart(self):
        schema = json.loads(read("deploy/helm/palu-server/values.schema.json"))
        default = yaml.safe_load(read("deploy/helm/palu-server/values.yaml"))
        for name, (values, kinds) in VALUES.items():
            with self.subTest(name):
                jsonschema.validate(merged(default, values), schema)
                documents = chart(values)
                usual = USUAL if default["networkPolicy"]["enabled"] and values.get(
                    "networkPolicy", {}).get("enabled", True) else USUAL - {"NetworkPolicy"}
                self.assertEqual({d["kind"] for d in documents}, usual | kinds)
                self.check_all(documents)

    def test_values_that_are_wrong_are_refused(self):
        schema = json.loads(read("deploy/helm/palu-server/values.schema.json"))
        default = yaml.safe_load(read("deploy/helm/palu-server/values.yaml"))
        for values in BAD_VALUES:
            with self.assertRaises(jsonschema.ValidationError, msg=values):
                jsonschema.validate(merged(default, values), schema)

    def test_gpu_settings_reach_the_pod(self):
        for documents in (overlay("gpu"), chart(VALUES["gpu"][0])):
            spec = of_kind(documents, "Deployment")["spec"]["template"]["spec"]
            (server,) = spec["containers"]
            self.assertEqual(server["resources"]["limits"]["nvidia.com/gpu"], 1)
            self.assertTrue(server["image"].endswith("-cuda"))
            (fetch,) = spec["initContainers"]
            self.assertEqual(fetch["image"], server["image"])
            token = next(e for e in fetch["env"] if e["name"] == "MODEL_TOKEN")
            self.assertIn("secretKeyRef", token["valueFrom"])
            volumes = {v["name"] for v in spec["volumes"] if "persistentVolumeClaim" in v}
            for container in (fetch, server):
                self.assertTrue(volumes & {m["name"] for m in container["volumeMounts"]})

    def test_keys_come_from_a_secret(self):
        pod = of_kind(chart(VALUES["all"][0]), "Deployment")["spec"]["template"]["spec"]
        (found,) = [e for e in pod["containers"][0]["env"] if e["name"] == "PALU_SECURITY_API_KEYS"]
        self.assertEqual(found["valueFrom"], {"secretKeyRef": {"name": "palu-keys", "key": "keys"}})
        # The name is that of a setting.
        self.assertIn("`PALU_SECURITY_API_KEYS`", read("docs", "configuration.md"))

    def test_the_charts_script_is_the_overlays(self):
        self.assertEqual(read("deploy/helm/palu-server/files/fetch-model.sh"),
                         read("deploy/k8s/overlays/gpu/fetch-model.sh"))

    def test_the_checks_can_fail(self):
        documents = json.loads(json.dumps(overlay("cpu-demo")))
        pod = of_kind(documents, "Deployment")["spec"]["template"]["spec"]
        pod["terminationGracePeriodSeconds"] = 30
        with self.assertRaises(AssertionError):
            self.check_all(documents)
        pod["terminationGracePeriodSeconds"] = 75
        pod["containers"][0]["livenesProbe"] = {}
        with self.assertRaises(Exception):
            self.check_all(documents)


def merged(base, over):
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if both else value
    return out


class BehaviourTest(unittest.TestCase):
    """The cpu-demo pod without a cluster: its arguments, settings and probes."""

    def setUp(self):
        documents = overlay("cpu-demo")
        deployment = of_kind(documents, "Deployment")["spec"]["template"]["spec"]
        self.grace = deployment["terminationGracePeriodSeconds"]
        (self.container,) = deployment["containers"]
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
            file.write(settings(documents))
        self.addCleanup(os.remove, file.name)
        args = [file.name if a.startswith("/etc/palu/") else a for a in self.container["args"]]
        self.env = {e["name"]: e["value"] for e in self.container["env"]}
        self.assertEqual(os.path.basename(self.env.pop("PALU_MODEL_PATH")), os.path.basename(MODEL))
        Server.binary = BINARY
        self.args = args

    def start(self, *args, **options):
        server = Server(MODEL, [*self.args, *args], env=self.env, **options)
        self.addCleanup(server.kill)
        return server

    def probe(self, server, name):
        return server.get(self.container[name]["httpGet"]["path"]).status

    def test_probes_through_a_life(self):
        server = self.start(wait=False)
        seen = []
        end = time.time() + 60
        while self.probe(server, "startupProbe") != 200 and time.time() < end:
            seen.append(self.probe(server, "livenessProbe"))
            time.sleep(0.02)
        self.assertEqual(set(seen) - {200}, set())  # loading is no reason to restart
        self.assertEqual(self.probe(server, "readinessProbe"), 200)
        # Long enough to be seen however slow the test is; the grace period has to do for it.
        answer = {}
        worker = threading.Thread(target=lambda: answer.update(server.completion(
            prompt="The sea", max_tokens=800, ignore_eos=True)))
        worker.start()
        while server.metric("vllm:num_requests_running") == 0:
            self.assertTrue(worker.is_alive(), "over before it was seen to run")
            time.sleep(0.01)
        started = time.time()
        server.signal()
        while self.probe(server, "readinessProbe") != 503:
            self.assertLess(time.time() - started, 20)
        self.assertEqual(self.probe(server, "livenessProbe"), 200)
        self.assertTrue(worker.is_alive(), "nothing was left to drain")
        worker.join()
        self.assertEqual(answer["usage"]["completion_tokens"], 800)
        self.assertEqual(server.wait_exit(self.grace), 0)
        self.assertLess(time.time() - started, self.grace)

    def test_scaler_asks_for_more_when_requests_wait_and_for_no_more_after(self):
        trigger = of_kind(overlay("gateway"), "ScaledObject")["spec"]["triggers"][0]
        self.assertIn("sum(vllm:num_requests_waiting", trigger["metadata"]["query"])
        threshold = float(trigger["metadata"]["threshold"])
        server = self.start("--engine.max_sequences=1")
        workers = [threading.Thread(target=server.completion, kwargs={
            "prompt": "The sea", "max_tokens": 150, "ignore_eos": True}) for _ in range(12)]
        for worker in workers:
            worker.start()
        wanted = 0  # as the autoscaler reckons with an AverageValue
        while any(worker.is_alive() for worker in workers):
            waiting = server.metric("vllm:num_requests_waiting")
            wanted = max(wanted, math.ceil(waiting / threshold))
            time.sleep(0.02)
        self.assertGreaterEqual(wanted, 2)
        server.wait_idle()
        self.assertEqual(server.metric("vllm:num_requests_waiting"), 0)

    def test_scaler_queries_are_promql(self):
        need("promtool")
        rules = [{"record": f"t{number}", "expr": trigger["metadata"]["query"]}
                 for documents in (overlay("gateway"), chart(VALUES["all"][0]))
                 for number, trigger in enumerate(
                     of_kind(documents, "ScaledObject")["spec"]["triggers"])]
        for number, rule in enumerate(rules):
            rule["record"] = f"scaler:query:{number}"
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}, file)
            file.flush()
            done = subprocess.run(["promtool", "check", "rules", file.name], capture_output=True,
                                  text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class FetchTest(unittest.TestCase):
    """fetch-model.sh against a web server that holds a checkpoint and wants a token."""

    def setUp(self):
        need("curl")
        asked = self.asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=MODEL)

            def do_GET(self):
                asked.append(self.path)
                if self.headers.get("Authorization") != "Bearer secret":
                    return self.send_error(401)
                return super().do_GET()

            def do_HEAD(self):
                if self.headers.get("Authorization") != "Bearer secret":
                    return self.send_error(401)
                return super().do_HEAD()

            def log_message(self, *args):
                pass

        self.web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.web.serve_forever, daemon=True).start()
        self.addCleanup(self.web.server_close)
        self.addCleanup(self.web.shutdown)
        self.folder = tempfile.mkdtemp(prefix="palu-fetch-")
        self.addCleanup(shutil.rmtree, self.folder)

    def fetch(self, token):
        return subprocess.run(
            ["sh", os.path.join(ROOT, "deploy/k8s/overlays/gpu/fetch-model.sh")],
            env={"PATH": os.environ["PATH"], "MODEL_TOKEN": token, "MODEL_DIR": self.folder,
                 "MODEL_URL": f"http://127.0.0.1:{self.web.server_port}"},
            capture_output=True, text=True, check=False, timeout=60)

    def test_fetches_once_and_what_comes_can_be_served(self):
        self.assertEqual(self.fetch("secret").returncode, 0)
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            with open(os.path.join(self.folder, name), "rb") as one:
                with open(os.path.join(MODEL, name), "rb") as other:
                    self.assertEqual(one.read(), other.read(), name)
        Server.binary = BINARY
        server = Server(self.folder)
        server.completion(prompt="The sea", max_tokens=2)
        server.kill()
        self.asked.clear()
        again = self.fetch("secret")
        self.assertEqual((again.returncode, self.asked), (0, []))

    def test_a_refused_token_is_an_error_and_leaves_nothing_whole(self):
        self.assertNotEqual(self.fetch("wrong").returncode, 0)
        self.assertFalse(os.path.exists(os.path.join(self.folder, ".complete")))


if __name__ == "__main__":
    main()
