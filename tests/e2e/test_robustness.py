"""Hostile and broken clients: the server stays up, small and quick for the others."""

import json
import resource
import socket
import time

from harness import Server, case, check, check_error, equal, post_bytes, read_all, seconds
from test_disconnect import LONG, wait_running

C = "/v1/completions"


def serves(server, within=5):
    started = time.time()
    equal(server.completion(prompt="a", max_tokens=1)["usage"]["completion_tokens"], 1)
    check(time.time() - started < seconds(within), "others wait")


def resident_bytes(server):
    with open(f"/proc/{server.process.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@case("robustness", own_server=True)
def slowloris():
    """Heads and bodies that come a byte at a time are cut off; others are served meanwhile."""
    server = Server(args=["--http.header_timeout=1s", "--http.body_timeout=1s"])
    try:
        socks = []
        for index in range(200):
            sock = server.connect()
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: " if index % 2 else
                         b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
            socks.append(sock)
        end = time.time() + 1.5
        while time.time() < end:
            for sock in socks[::10]:
                try:
                    sock.sendall(b"b")
                except OSError:
                    pass
            time.sleep(0.2)
        serves(server)
        for sock in socks:
            data = read_all(sock)
            check(data == b"" or data.startswith(b"HTTP/1.1 408 "), data[:100])
            sock.close()
        server.stop()
    finally:
        server.kill()


@case("robustness", own_server=True)
def thousands_of_connections():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    server = Server(args=["--http.max_connections=3000"])
    try:
        before = resident_bytes(server)
        count = min(2500, min(hard, 16384) - 200)
        socks = [server.connect() for _ in range(count)]
        for sock in socks[::50]:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        for sock in socks[::50]:
            check(sock.recv(4096).startswith(b"HTTP/1.1 200 "), "each is served")
        serves(server)
        grown = resident_bytes(server) - before
        check(grown < count * (64 << 10), f"{grown} bytes for {count} idle connections")
        for sock in socks:
            sock.close()
        serves(server)
        server.stop()
    finally:
        server.kill()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@case("robustness", own_server=True)
def clients_that_never_read():
    server = Server(args=["--http.write_timeout=1s", "--engine.max_unread_tokens=500"])
    try:
        socks = []
        for _ in range(6):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(post_bytes(C, {**LONG, "stream": True, "logprobs": 20, "n": 4}))
            socks.append(sock)
        wait_running(server)
        serves(server, 10)
        server.wait_idle(120)
        for sock in socks:
            sock.close()
        serves(server)
        server.stop()
    finally:
        server.kill()


@case("robustness")
def half_open_sockets(server):
    """Connections on which nothing comes hold nobody up."""
    idle = [server.connect() for _ in range(100)]
    for sock in idle[:50]:
        sock.shutdown(socket.SHUT_WR)
        equal(read_all(sock), b"", "closed in turn")
    serves(server)
    for sock in idle:
        sock.close()


@case("robustness")
def pipelining_floods(server):
    """More requests at once than are buffered: all are answered, in order."""
    count = 500
    with server.connect() as sock:
        request = b"GET /version HTTP/1.1\r\nHost: x\r\nX-Request-Id: %d\r\n\r\n"
        sock.sendall(b"".join(request % i for i in range(count)) +
                     b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = read_all(sock)
    ids = [line.split(b": ")[1] for line in data.split(b"\r\n") if line.startswith(b"x-request-id")]
    equal(ids[:count], [b"%d" % i for i in range(count)])


@case("robustness")
def huge_and_deep_json(server):
    for body in (b'{"prompt": ' + b"[" * 1000000, b'{"a":' * 200000,
                 b'{"prompt": "' + b"\\u0000" * 100000 + b'", "max_tokens": 1}',
                 b'{"prompt": [' + b"1," * 500000 + b"1]}",
                 b'{"prompt": [' + b'"a",' * 100000 + b'"a"]}',
                 json.dumps({"prompt": "a", "logit_bias": {str(i): 1 for i in range(8192)},
                             "stop": ["x" * 1000] * 100, "max_tokens": 1}).encode(),
                 json.dumps({f"field{i}": i for i in range(50000)}).encode(),
                 b'{"prompt": "a", "n": ' + b"9" * 100000 + b"}"):
        answer = server.post(C, body)
        check(answer.status in (200, 400), f"{body[:30]}: {answer.status}")
        if answer.status == 400:
            check_error(answer, 400)
            check(len(answer.body) < 4096, "the refusal does not repeat the request")
    serves(server)


@case("robustness")
def nul_bytes_and_bad_utf8(server):
    for data in (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n",
                 b"\x00" * 1000, b"GET /v1/models/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
                 b"GET /v1/models/%00%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
        answer = server.raw(data, half_close=True)
        status = int(answer[9:12]) if answer else 0
        check(status == 0 or 400 <= status < 500, f"{data[:40]}: {answer[:60]}")
    equal(server.post(C, {"prompt": "a\x00b", "max_tokens": 1}).status, 200)
    check_error(server.post(C, b'{"prompt": "a\x00b"}'), 400)
    check_error(server.post(C, b'{"prompt": "\xed\xa0\x80"}'), 400)
    answer = server.get("/health", {"X-Request-Id": "a\tb<script>" + "c" * 500})
    check(set(answer.headers["x-request-id"]) <= set("abscript" "c"), "made safe")
    check(len(answer.headers["x-request-id"]) <= 128, "cut")


@case("robustness")
def cancellation_on_every_route(server):
    """Whatever generates stops within a step of its client's leaving."""
    infer = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1],
                         "data": ["The sea"]}],
             "parameters": {"max_tokens": 2000, "ignore_eos": True}}
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1500,
            "ignore_eos": True}
    for path, body in ((C, LONG), (C, {**LONG, "stream": True}), ("/v1/chat/completions", chat),
                       ("/v1/chat/completions", {**chat, "stream": True}),
                       ("/v2/models/classics-14m/infer", infer)):
        before = server.metric("palu:requests_cancelled_total", reason="client")
        sock = server.connect()
        sock.sendall(post_bytes(path, body))
        wait_running(server)
        sock.close()
        server.wait_idle(5)
        equal(server.metric("palu:requests_cancelled_total", reason="client"), before + 1, path)
