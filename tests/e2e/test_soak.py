"""A short piece of tests/soak, and what else goes wrong around the daemon."""

import os
import socket
import subprocess
import sys
import time
import urllib.request

from harness import MODEL, ROOT, Server, case, check, equal, seconds

sys.path.insert(0, os.path.join(ROOT, "tests", "soak"))

import soak  # noqa: E402


@case("soak", own_server=True)
def a_few_seconds_of_overload():
    summary = soak.run(seconds=12, report_every=2, calibration=2)
    equal(summary["findings"], [], str(summary))
    check(summary["clients"]["answered"] > 10, str(summary))
    check(summary["clients"]["compared"] > 0, str(summary))
    check(summary["preemptions"] > 0, f"the cache was not tight: {summary}")


@case("faults", own_server=True)
def a_full_disk_for_the_log_stops_nothing():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(
            [Server.binary, "--model", MODEL, "--http.address=127.0.0.1", f"--http.port={port}",
             "--grpc.enabled=false", "--cache.memory=64MiB", "--log.level=debug"],
            stderr=full, stdout=full)
    try:
        end = time.time() + seconds(60)
        while True:
            check(process.poll() is None, "died")
            check(time.time() < end, "not ready in time")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready",
                                            timeout=seconds(5)) as answer:
                    equal(answer.status, 200)
                break
            except OSError:
                time.sleep(0.05)
        body = b'{"prompt": "The sea", "max_tokens": 5}'
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", body,
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=seconds(30)) as answer:
            equal(answer.status, 200)
        process.terminate()
        equal(process.wait(seconds(30)), 0, "exit code")
    finally:
        process.kill()
        process.wait()
