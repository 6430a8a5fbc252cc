"""The daemon as tests drive it: start, ask, stop; and how cases are written and counted."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import traceback

import sanitizers

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FIXTURES = os.environ.get("PALU_FIXTURES", os.path.join(ROOT, "..", "shared", "fixtures"))
MODEL = os.path.join(ROOT, "models", "classics-14m")
CASES = []
# The limits of the cases are what a quiet machine needs; one that does other things too may take
# this much longer, and a sanitized daemon longer still.
BUSY_SLOWDOWN = 4
SANITIZED_SLOWDOWN = 5
slowdown = BUSY_SLOWDOWN
reports = None


def use_binary(path):
    """The daemon under test; one with sanitizers gets more time, and its reports are read."""
    global slowdown, reports
    Server.binary = os.path.abspath(path)
    if os.path.exists(path) and sanitizers.built_with(path):
        slowdown = BUSY_SLOWDOWN * SANITIZED_SLOWDOWN
        reports = sanitizers.Reports()
        os.environ.update(reports.environment)


def seconds(limit):
    """A limit on what the daemon takes, as long as this build and this machine need."""
    return limit * slowdown


class Skip(Exception):
    """A case that cannot run here; says why."""


def case(area, own_server=False):
    """Registers a test case. It gets the shared server, or with own_server a factory of servers."""

    def register(function):
        CASES.append((area, function.__name__, function, own_server))
        return function

    return register


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def equal(found, expected, what=""):
    if found != expected:
        raise AssertionError(f"{what}: found {found!r}, expected {expected!r}")


def golden():
    with open(os.path.join(ROOT, "tests", "golden", "classics-14m.json"), encoding="utf-8") as file:
        return json.load(file)


class Response:
    """Status, headers (lower case) and body of an answer."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


class Server:
    """One palu-server process on free ports of the loopback."""

    binary = None

    def __init__(self, model=MODEL, args=(), wait=True, env=None):
        self.log = []
        command = [self.binary, "--model", model, "--http.address=127.0.0.1", "--http.port=0",
                   "--grpc.address=127.0.0.1", "--grpc.port=0", "--cache.memory=64MiB", *args]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                        env={**os.environ, **(env or {})}, text=True)
        self.start_reading()
        self.port = self._port("HTTP on")
        self.grpc_port = self._port("gRPC on")
        if wait:
            self.wait_ready()

    def start_reading(self):
        self.reader = threading.Thread(target=self._read_log, daemon=True)
        self.reader.start()

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line.rstrip("\n"))
            if reports:
                reports.note(self.log[-1])

    def log_text(self):
        return "\n".join(self.log)

    def _port(self, what, timeout=30):
        end = time.time() + seconds(timeout)
        while time.time() < end:
            found = re.search(what + r" \S+:(\d+)", self.log_text())
            if found:
                return int(found.group(1))
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"no line '{what} …'; log: {self.log_text()[-2000:]}")

    def wait_ready(self, timeout=120):
        end = time.time() + seconds(timeout)
        while time.time() < end:
            check(self.process.poll() is None, f"died: {self.log_text()[-2000:]}")
            if self.get("/ready").status == 200:
                return
            time.sleep(0.05)
        raise AssertionError("not ready in time")

    def request(self, method, path, body=None, headers=None, timeout=60):
        connection = http.client.HTTPConnection("127.0.0.1", self.port,
                                                timeout=seconds(timeout))
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()},
                            answer.read())
        finally:
            connection.close()

    def get(self, path, headers=None):
        return self.request("GET", path, headers=headers)

    def post(self, path, body, headers=None, timeout=60):
        data = body if isinstance(body, (bytes, str)) else json.dumps(body)
        return self.request("POST", path, data, {"Content-Type": "application/json",
                                                 **(headers or {})}, timeout)

    def completion(self, **body):
        """A completion that must succeed, as JSON."""
        answer = self.post("/v1/completions", body)
        check(answer.status == 200, f"{answer.status} {answer.body[:500]}")
        return answer.json()

    def stream(self, path="/v1/completions", **body):
        """All events of a stream, without [DONE], which must be there."""
        answer = self.post(path, {**body, "stream": True})
        check(answer.status == 200, f"{answer.status} {answer.body[:500]}")
        events = parse_events(answer.body)
        equal(events[-1], "[DONE]", "last event")
        return [json.loads(event) for event in events[:-1]]

    def connect(self, timeout=30):
        return socket.create_connection(("127.0.0.1", self.port),
                                        timeout=seconds(timeout))

    def raw(self, data, timeout=30, half_close=False):
        """Sends bytes, reads until the server closes."""
        with self.connect(timeout) as sock:
            try:
                sock.sendall(data)
                if half_close:
                    sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            return read_all(sock)

    def metrics(self):
        """Name and labels to value."""
        values = {}
        for line in self.get("/metrics").body.decode().splitlines():
            if line and not line.startswith("#"):
                key, value = line.rsplit(" ", 1)
                values[key] = float(value)
        return values

    def metric(self, name, **labels):
        """Sum of the series with these labels."""
        total, found = 0.0, False
        for key, value in self.metrics().items():
            if key.split("{")[0] == name and all(f'{k}="{v}"' in key for k, v in labels.items()):
                total, found = total + value, True
        check(found, f"no metric {name} {labels}")
        return total

    def wait_idle(self, timeout=30):
        """Until nothing runs, waits or holds a block."""
        end = time.time() + seconds(timeout)
        gauges = {}
        while time.time() < end:
            gauges = {
                "running": self.metric("vllm:num_requests_running"),
                "waiting": self.metric("vllm:num_requests_waiting"),
                "used": self.metric("palu:kv_cache_bytes", kind="used"),
                "usage": self.metric("vllm:kv_cache_usage_perc"),
            }
            if not any(gauges.values()):
                return
            time.sleep(0.05)
        raise AssertionError(f"gauges do not return to zero: {gauges}")

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait_exit(self, timeout=30):
        code = self.process.wait(seconds(timeout))
        self.reader.join(5)
        return code

    def kill(self):
        # Leaks show only where a program ends by itself.
        if reports and self.process.poll() is None:
            self.signal()
            try:
                self.process.wait(seconds(3))
            except subprocess.TimeoutExpired:
                pass
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join(5)

    def stop(self):
        """Ends it as an operator would, which must work."""
        self.signal()
        try:
            code = self.wait_exit()
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end: {self.log_text()[-2000:]}") from None
        equal(code, 0, f"exit code; log: {self.log_text()[-2000:]}")


def parse_events(body):
    """data of every event; comments are left out."""
    events = []
    for block in body.decode("utf-8").split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            equal(len(lines), 1, "lines of an event")
            check(lines[0].startswith("data: "), f"event {lines[0]!r}")
            events.append(lines[0][len("data: "):])
    return events


def read_all(sock):
    data = b""
    while True:
        try:
            part = sock.recv(65536)
        except ConnectionResetError:
            return data
        if not part:
            return data
        data += part


def post_bytes(path, body, extra=""):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n{extra}\r\n")
    return head.encode() + data


def check_error(answer, status, param=None, kind=None):
    """An error answer has the documented form; returns its error object."""
    equal(answer.status, status, f"status of {answer.body[:300]}")
    equal(answer.headers.get("content-type"), "application/json", "content type")
    error = answer.json()["error"]
    equal(set(error), {"message", "type", "param", "code"}, "keys of error")
    check(error["message"], "message is empty")
    if param is not None:
        equal(error["param"], param, "param")
    if kind is not None:
        equal(error["type"], kind, "type")
    return error


def run_cases(pattern):
    """Runs what matches; prints a line per case. Returns (passed, failed, skipped)."""
    counts = {"PASS": 0, "FAIL": 0, "SKIP": 0}
    shared = None
    for area, name, function, own_server in CASES:
        if not re.search(pattern, f"{area}.{name}"):
            continue
        started, detail, verdict = time.time(), "", "PASS"
        try:
            if own_server:
                function()
            else:
                if shared is None or shared.process.poll() is not None:
                    shared = Server()
                function(shared)
        except Skip as why:
            verdict, detail = "SKIP", f" ({why})"
        except Exception as error:  # pylint: disable=broad-except
            verdict, detail = "FAIL", f"\n{traceback.format_exc()}"
            if not isinstance(error, AssertionError) and shared is not None:
                detail += f"server log:\n{shared.log_text()[-1500:]}\n"
        reported = reports.take() if reports else ""
        if reported:
            verdict, detail = "FAIL", f"{detail}\n{reported}"
        counts[verdict] += 1
        print(f"{verdict} e2e.{area}.{name} {time.time() - started:.1f}s{detail}", flush=True)
    for failure in end_shared(shared):
        counts["FAIL"] += 1
        print(f"FAIL e2e.{failure}")
    return counts["PASS"], counts["FAIL"], counts["SKIP"]


def end_shared(shared):
    """What went wrong when the server of many cases ended."""
    failures = []
    if shared is not None:
        try:
            shared.stop()
        except AssertionError as error:
            failures.append(f"shutdown of the shared server: {error}")
    if reports:
        reported = reports.take()
        if reported:
            failures.append(f"sanitizers at the end of the shared server:\n{reported}")
        reports.close()
    return failures
