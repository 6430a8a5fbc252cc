"""API keys: who may ask, how much at once; that keys change while the server runs."""

import os
import signal
import tempfile
import threading
import time

from harness import MODEL, Server, case, check, check_error, equal, post_bytes, seconds
from test_disconnect import LONG, wait_running
from test_grpc import connect, fails

KEYS = {"PALU_SECURITY_API_KEYS": "first-key-1,second-key-2"}
OPEN = ("/health", "/ready", "/version", "/metrics", "/", "/openapi.json")
GUARDED = ("/v1/models", "/v1/models/classics-14m", "/v2/health/live", "/v2", "/v1/nothing")


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def wait_until(condition, what, timeout=10):
    end = time.time() + seconds(timeout)
    while not condition():
        check(time.time() < end, what)
        time.sleep(0.05)


@case("security", own_server=True)
def keys_guard_what_they_must():
    server = Server(env=KEYS)
    try:
        for path in OPEN:
            equal(server.get(path).status, 200, path)
        for path in GUARDED:
            for headers in ({}, bearer("wrong"), bearer(""), {"Authorization": "Basic Zm9v"},
                            {"Authorization": "first-key-1"}, bearer("first-key-1 x"),
                            bearer("first-key-")):
                answer = server.get(path, headers)
                error = check_error(answer, 401, kind="authentication_error")
                equal(answer.headers["www-authenticate"], "Bearer")
                check("key" in error["message"] or "Bearer" in error["message"], error["message"])
        for key in ("first-key-1", "second-key-2"):
            equal(server.get("/v1/models", bearer(key)).status, 200)
        for path in ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize",
                     "/detokenize", "/v2/models/classics-14m/infer"):
            check_error(server.post(path, {}), 401)
            check_error(server.post(path, {}, bearer("second-key-2")), 400)
        equal(server.request("OPTIONS", "/v1/models", headers={"Origin": "http://a"}).status, 204)
        # The answer comes before the body.
        early = server.raw(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
                           b"Content-Length: 1000\r\n\r\n")
        check(early.startswith(b"HTTP/1.1 401 "), early[:100])
        server.stop()
        for key in ("first-key-1", "second-key-2", "wrong"):
            check(key not in server.log_text(), f"{key} is in the log")
    finally:
        server.kill()


@case("security", own_server=True)
def keys_guard_grpc():
    server = Server(env=KEYS)
    try:
        grpc, pb, stub, channel = connect(server)
        request = pb.GenerateRequest(text="a", sampling=pb.SamplingParams(max_tokens=1))
        with channel:
            for metadata in ((), (("authorization", "Bearer nope"),)):
                for call in (lambda m: stub.GenerateUnary(request, metadata=m),
                             lambda m: list(stub.Generate(request, metadata=m)),
                             lambda m: stub.GetModelInfo(pb.GetModelInfoRequest(), metadata=m),
                             lambda m: stub.Embed(pb.EmbedRequest(), metadata=m)):
                    fails(grpc, grpc.StatusCode.UNAUTHENTICATED, lambda: call(metadata))
            right = (("authorization", "Bearer first-key-1"),)
            equal(stub.GenerateUnary(request, metadata=right).usage.completion_tokens, 1)
            equal(len(list(stub.Generate(request, metadata=right))) > 0, True)
        server.stop()
        check("first-key-1" not in server.log_text(), "key in the log")
    finally:
        server.kill()


@case("security", own_server=True)
def key_file_is_read_again():
    path = os.path.join(tempfile.mkdtemp(prefix="palu-keys-"), "keys")

    def write(text):
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(path + ".new", path)

    write("# ours\n\nold-key\n")
    server = Server(args=[f"--security.api_keys_file={path}"])
    try:
        def status(key):
            return server.get("/v1/models", bearer(key)).status

        equal((status("old-key"), status("new-key")), (200, 401))
        write("new-key\r\n")
        wait_until(lambda: status("new-key") == 200, "the changed file is not noticed")
        equal(status("old-key"), 401)
        write("third-key\n")
        server.signal(signal.SIGHUP)
        wait_until(lambda: status("third-key") == 200, "SIGHUP does not read the file")
        write("# nothing left\n")
        server.signal(signal.SIGHUP)
        wait_until(lambda: "api_keys_file" in server.log_text(), "no error is logged")
        equal((status("third-key"), status("")), (200, 401), "an empty file opens nothing")
        server.stop()
    finally:
        server.kill()


@case("security", own_server=True)
def requests_per_key_are_limited():
    server = Server(env=KEYS, args=["--security.max_requests_per_key=2"])
    try:
        socks = []
        for _ in range(2):
            sock = server.connect()
            sock.sendall(post_bytes("/v1/completions", LONG,
                                    "Authorization: Bearer first-key-1\r\n"))
            socks.append(sock)
        wait_running(server, 2)
        body = {"prompt": "a", "max_tokens": 1}
        answer = server.post("/v1/completions", body, bearer("first-key-1"))
        check_error(answer, 429, kind="rate_limit_error")
        check(int(answer.headers["retry-after"]) > 0, "retry-after")
        equal(server.post("/v1/completions", body, bearer("second-key-2")).status, 200)
        for sock in socks:
            sock.close()
        server.wait_idle()
        for _ in range(20):
            equal(server.post("/v1/completions", body, bearer("first-key-1")).status, 200,
                  "a place is free again as soon as an answer has ended")
        server.stop()
    finally:
        server.kill()


@case("security", own_server=True)
def keys_under_load_and_reload():
    """Keys are read again while requests are checked; none is refused wrongly."""
    server = Server(env=KEYS)
    try:
        statuses = []

        def ask():
            for _ in range(25):
                statuses.append(server.get("/v1/models", bearer("second-key-2")).status)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            server.signal(signal.SIGHUP)
            time.sleep(0.02)
        for thread in threads:
            thread.join()
        equal(set(statuses), {200})
        server.stop()
    finally:
        server.kill()


@case("security")
def a_missing_key_file_stops_the_start(server):
    import subprocess
    found = subprocess.run([server.binary, "--model", MODEL, "--http.port=0",
                            "--security.api_keys_file=/nowhere/keys"], capture_output=True,
                           text=True, timeout=seconds(30), check=False)
    equal(found.returncode, 2)
    check("security.api_keys_file" in found.stderr and "/nowhere/keys" in found.stderr,
          found.stderr)
    secret = subprocess.run([server.binary, "--model", MODEL, "--print-config",
                             "--security.api_keys=hidden-key"], capture_output=True, text=True,
                            timeout=seconds(30), check=False)
    equal(secret.returncode, 0)
    check("hidden-key" not in secret.stdout + secret.stderr, "the key is printed")
