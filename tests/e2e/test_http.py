"""The HTTP surface itself: routes, methods, heads, connections."""

import json
import re

from harness import case, check, check_error, equal, post_bytes, read_all


@case("http")
def probes(server):
    for path in ("/health", "/ready", "/version", "/metrics", "/", "/openapi.json", "/v1/models"):
        answer = server.get(path)
        equal(answer.status, 200, path)
        head = server.request("HEAD", path)
        equal((head.status, head.body), (200, b""), f"HEAD {path}")
        if path != "/metrics":
            equal(head.headers["content-length"], str(len(answer.body)), f"HEAD {path}")
    check(re.match(r"\d+\.\d+\.\d+", server.get("/version").json()["version"]), "version")
    check(server.get("/openapi.json").json()["paths"]["/v1/completions"], "openapi")


@case("http")
def models(server):
    answer = server.get("/v1/models").json()
    equal(answer["object"], "list")
    model = answer["data"][0]
    equal((model["id"], model["object"], model["max_model_len"]), ("classics-14m", "model", 2048))
    equal(model["parent"], None)
    equal(server.get("/v1/models/classics-14m").json()["id"], "classics-14m")
    check_error(server.get("/v1/models/gpt-4"), 404, kind="not_found_error")
    check_error(server.get("/v1/models/a%2Fb"), 404)


@case("http")
def unknown_paths(server):
    for path in ("/nope", "/v1", "/v1/", "/v1/completions/x", "/%ff", "/../etc/passwd", "//"):
        check_error(server.get(path), 404, kind="not_found_error")


@case("http")
def wrong_methods(server):
    for method, path, allow in (("GET", "/v1/completions", "POST"), ("PUT", "/tokenize", "POST"),
                                ("DELETE", "/v1/models", "GET"), ("POST", "/health", "GET"),
                                ("PATCH", "/metrics", "GET"), ("HEAD", "/detokenize", "POST")):
        answer = server.request(method, path)
        equal(answer.status, 405, f"{method} {path}")
        check(allow in answer.headers["allow"], answer.headers["allow"])
        if method != "HEAD":
            check_error(answer, 405)


@case("http")
def cors(server):
    answer = server.request("OPTIONS", "/v1/completions", headers={
        "Origin": "http://example.org", "Access-Control-Request-Method": "POST"})
    equal(answer.status, 204)
    equal(answer.headers["access-control-allow-origin"], "*")
    check("POST" in answer.headers["access-control-allow-methods"], "methods")
    # The wildcard is for the client libraries' own headers; it does not stand for Authorization.
    allowed = answer.headers["access-control-allow-headers"].split(", ")
    check({"Authorization", "*"} <= set(allowed), allowed)
    answer = server.get("/health", {"Origin": "http://example.org"})
    equal(answer.headers["access-control-allow-origin"], "*")


@case("http")
def request_ids(server):
    equal(server.get("/health", {"X-Request-Id": "abc-1.2"}).headers["x-request-id"], "abc-1.2")
    odd = server.get("/health", {"X-Request-Id": "a b<c>\"'" + "x" * 500})
    check(re.fullmatch(r"[\w.:-]{1,128}", odd.headers["x-request-id"]), "sanitised")
    ids = {server.get("/health").headers["x-request-id"] for _ in range(3)}
    equal(len(ids), 3, "new ids")
    answer = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "request_id": "mine"})
    equal((answer.json()["id"], answer.headers["x-request-id"]), ("cmpl-mine", "mine"))
    answer = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "request_id": "mine"},
                         {"X-Request-Id": "gateway"})
    equal((answer.json()["id"], answer.headers["x-request-id"]), ("cmpl-gateway", "gateway"))
    check(server.get("/nope").headers["x-request-id"], "on errors too")


@case("http")
def content_types(server):
    body = json.dumps({"prompt": "a", "max_tokens": 1})
    for kind in ("application/json", "application/json; charset=utf-8", "Application/JSON"):
        equal(server.request("POST", "/v1/completions", body, {"Content-Type": kind}).status, 200)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        check_error(server.request("POST", "/v1/completions", body, {"Content-Type": kind}), 415)
    missing = server.raw(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n"
                         b"Connection: close\r\n\r\n" + b'{"prompt":"a"}')
    check(missing.startswith(b"HTTP/1.1 200 "), missing[:200])


@case("http")
def keep_alive_and_pipelining(server):
    with server.connect() as sock:
        bodies = [{"prompt": f"number {i}", "max_tokens": i + 1, "temperature": 0,
                   "ignore_eos": True} for i in range(4)]
        data = b"".join(post_bytes("/v1/completions", body) for body in bodies)
        sock.sendall(data + b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = read_all(sock)
    answers = re.findall(rb"HTTP/1.1 200 OK\r\n.*?\r\n\r\n(\{.*?\})(?=HTTP|$)", received, re.S)
    equal(len(answers), 5, received[:1000])
    equal([json.loads(a)["usage"]["completion_tokens"] for a in answers[:4]], [1, 2, 3, 4])


@case("http")
def chunked_bodies_and_expect(server):
    body = b'{"prompt": "a", "max_tokens": 1}'
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:5], body[5:]))
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    answer = server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    check(answer.startswith(b"HTTP/1.1 200 "), answer[:200])
    with server.connect() as sock:
        sock.sendall(head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        check(sock.recv(1000).startswith(b"HTTP/1.1 100 "), "100 Continue")
        sock.sendall(body)
        check(read_all(sock).startswith(b"HTTP/1.1 200 "), "answer after 100")


@case("http")
def http10(server):
    answer = server.raw(b"GET /health HTTP/1.0\r\n\r\n")
    check(answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"}"), answer)
    body = json.dumps({"prompt": "a", "max_tokens": 3, "stream": True}).encode()
    stream = server.raw(b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\n"
                        b"Content-Length: %d\r\n\r\n" % len(body) + body)
    check(b"chunked" not in stream.lower(), "no chunked coding for 1.0")
    check(stream.endswith(b"data: [DONE]\n\n"), stream[-100:])


@case("http")
def bytes_one_by_one(server):
    with server.connect() as sock:
        for byte in b"\r\nGET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
            sock.sendall(bytes([byte]))
        check(read_all(sock).startswith(b"HTTP/1.1 200 "), "answer")
