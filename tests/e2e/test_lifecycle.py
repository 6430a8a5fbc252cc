"""Start-up block, draining, signals."""

import json
import os
import re
import signal
import threading
import time

from harness import (BUSY_SLOWDOWN, MODEL, Server, case, check, check_error, equal, parse_events,
                     post_bytes, seconds)
from test_disconnect import wait_running
from test_logs import wait_line

LONG = {"prompt": "The sea", "max_tokens": 2000, "ignore_eos": True}


def in_background(function, *args, **kwargs):
    result = {}

    def work():
        try:
            result["answer"] = function(*args, **kwargs)
        except OSError as error:
            result["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, result


@case("lifecycle", own_server=True)
def startup_block():
    server = Server()
    try:
        text = server.log_text()
        for pattern in (r"model\s+classics-14m", r"backend\s+(cpu|cuda:\d)", r"weights\s+[\d.]+ MiB",
                        r"KV pool\s+[\d.]+ MiB = \d+ tokens = [\d.]+ full-length requests",
                        r"KV per token\s+[\d.]+ bytes .* against [\d.]+ uncompressed"):
            check(re.search(pattern, text), f"no {pattern} in {text}")
        server.stop()
    finally:
        server.kill()


@case("lifecycle", own_server=True)
def ready_soon_after_exec():
    """Takes a few tenths of a second on an idle machine; one of five starts has to be near."""
    limit, tries = seconds(3) / BUSY_SLOWDOWN, []
    while not tries or (tries[-1] >= limit and len(tries) < 5):
        start = time.time()
        server = Server(args=["--engine.cpu_threads=2"])
        try:
            tries.append(time.time() - start)
            server.stop()
        finally:
            server.kill()
    check(min(tries) < limit, f"ready after {tries} s")


def cpu_seconds(server):
    """User and system time of the daemon so far."""
    with open(f"/proc/{server.process.pid}/stat", encoding="utf-8") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@case("lifecycle", own_server=True)
def idle_server_takes_no_cpu_time():
    server = Server(args=["--engine.cpu_threads=2"])
    try:
        server.completion(prompt="The sea", max_tokens=20, ignore_eos=True)
        server.wait_idle()
        # What ends with the request may go on for a while on a busy machine.
        tries = []
        while not tries or (tries[-1] > 0.05 and len(tries) < 5):
            time.sleep(0.2)
            before = cpu_seconds(server)
            time.sleep(1)
            tries.append(cpu_seconds(server) - before)
        check(min(tries) <= 0.05, f"{tries} s of CPU time in seconds without requests")
        server.stop()
    finally:
        server.kill()


@case("lifecycle", own_server=True)
def drain_lets_requests_finish():
    server = Server(args=["--shutdown.drain_timeout=60s"])
    try:
        thread, result = in_background(server.completion, prompt="The sea", max_tokens=1200,
                                       ignore_eos=True)
        wait_running(server)
        server.signal()
        end = time.time() + seconds(10)
        while server.get("/ready").status != 503:
            check(time.time() < end, "still ready")
        equal(server.get("/health").status, 200)
        answer = server.post("/v1/completions", {"prompt": "a"})
        check_error(answer, 503, kind="unavailable_error")
        check(int(answer.headers["retry-after"]) > 0, "retry-after")
        equal(server.wait_exit(60), 0)
        thread.join(5)
        equal(result["answer"]["usage"]["completion_tokens"], 1200)
    finally:
        server.kill()


@case("lifecycle", own_server=True)
def drain_timeout_ends_the_rest():
    server = Server(args=["--shutdown.drain_timeout=300ms"])
    try:
        thread, result = in_background(server.post, "/v1/completions", {**LONG, "stream": True,
                                                                        "n": 8})
        unary, unary_result = in_background(server.post, "/v1/completions", LONG)
        wait_running(server, 2)
        server.signal(signal.SIGINT)
        equal(server.wait_exit(20), 0)
        thread.join(5)
        unary.join(5)
        events = parse_events(result["answer"].body)
        check("error" in json.loads(events[-1]), events[-1])
        equal(json.loads(events[-1])["error"]["type"], "unavailable_error")
        check_error(unary_result["answer"], 503)
    finally:
        server.kill()


@case("lifecycle", own_server=True)
def second_signal_exits_at_once():
    server = Server(args=["--shutdown.drain_timeout=60s"])
    try:
        in_background(server.post, "/v1/completions", {**LONG, "n": 16})
        wait_running(server)
        server.signal()
        wait_line(server, "shutting down")
        server.signal()
        equal(server.wait_exit(), 1, "exit code")
        wait_line(server, "second signal: exiting at once")
    finally:
        server.kill()


@case("lifecycle", own_server=True)
def idle_connections_do_not_hold_the_exit():
    server = Server()
    try:
        with server.connect() as idle, server.connect() as half:
            idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            idle.recv(1000)
            half.sendall(b"GET /hea")
            started = time.time()
            server.stop()
            check(time.time() - started < seconds(5), "late")
    finally:
        server.kill()


@case("lifecycle", own_server=True)
def hangup_reads_the_log_level_again():
    server = Server(env={"PALU_LOG_LEVEL": "info"})
    try:
        server.signal(signal.SIGHUP)
        end = time.time() + seconds(5)
        while "log level is now info" not in server.log_text():
            check(time.time() < end, server.log_text())
            time.sleep(0.05)
        server.stop()
    finally:
        server.kill()


@case("lifecycle", own_server=True)
def log_as_json_lines():
    server = Server(args=["--log.format=json", "--http.log_prompts", "--http.slow_request=1ms"])
    try:
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        body = {"prompt": "a \"quoted\" one", "max_tokens": 50}
        server.post("/v1/completions", body, {"X-Request-Id": "json-1",
                                              "traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
        server.post("/v1/completions", body, {"X-Request-Id": "json-2"})
        server.stop()
        entries = [json.loads(line) for line in server.log]
        for entry in entries:
            equal(set(entry) - {"request_id", "trace_id"}, {"time", "level", "message"}, entry)
        for name, expected in (("json-1", {"trace_id": trace}), ("json-2", {})):
            found = [entry for entry in entries if entry.get("request_id") == name]
            # The prompt, the access, and that it took long.
            equal(len(found), 3, entries)
            for entry in found:
                check(name in entry["message"], entry)
                equal({k: v for k, v in entry.items() if k == "trace_id"}, expected)
        check(any("request_id" not in entry for entry in entries), "lines about no request")
    finally:
        server.kill()


@case("lifecycle", own_server=True)
def queue_full_is_429():
    server = Server(args=["--engine.max_queue_requests=2", "--engine.max_sequences=1"])
    try:
        socks = []
        for _ in range(8):
            sock = server.connect()
            sock.sendall(post_bytes("/v1/completions", LONG))
            socks.append(sock)
            time.sleep(0.02)
        answer = server.post("/v1/completions", {"prompt": "a"})
        check_error(answer, 429, kind="rate_limit_error")
        check(int(answer.headers["retry-after"]) > 0, "retry-after")
        check(server.metric("palu:requests_rejected_total", reason="queue_full") >= 1, "metric")
        for sock in socks:
            sock.close()
        server.wait_idle()
        equal(server.completion(prompt="a", max_tokens=1)["usage"]["completion_tokens"], 1)
        too_many = server.post("/v1/completions", {"prompt": ["a"] * 3})
        check_error(too_many, 400, "prompt")
        server.stop()
    finally:
        server.kill()


@case("lifecycle", own_server=True)
def served_name():
    server = Server(model=MODEL + "/", args=["--model.served_name=org/name"])
    try:
        equal(server.get("/v1/models").json()["data"][0]["id"], "org/name")
        equal(server.get("/v1/models/org/name").json()["id"], "org/name")
        equal(server.completion(model="org/name", prompt="a", max_tokens=1)["model"], "org/name")
        server.stop()
    finally:
        server.kill()
