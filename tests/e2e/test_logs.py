"""What the log says of requests; trace context, timing, the debug view."""

import re
import time

from harness import Server, case, check, check_error, equal, post_bytes, seconds
from test_grpc import connect, fails

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
BODY = {"prompt": "A very private prompt", "max_tokens": 4, "ignore_eos": True}


@case("logs", own_server=True)
def access_log_has_tokens_and_outcome():
    server = Server()
    try:
        for extra, path in (({}, "/v1/completions"), ({"stream": True}, "/v1/completions")):
            server.post(path, {**BODY, **extra}, {"X-Request-Id": f"id-{len(extra)}",
                                                  "traceparent": TRACE})
        server.post("/v1/embeddings", {"input": "private words"}, {"X-Request-Id": "id-e"})
        server.post("/v1/completions", {**BODY, "n": 0}, {"X-Request-Id": "id-bad"})
        chat = {"messages": [{"role": "user", "content": "private"}], "max_tokens": 2}
        for path, body in (("/v1/completions", {**BODY, "stream": True}),
                           ("/v1/chat/completions", chat), ("/v1/embeddings", {"input": "a"})):
            own = f"own/{path[4:8]}\n"
            answer = server.post(path, {**body, "request_id": own})
            equal(answer.headers["x-request-id"], f"own{path[4:8]}")
        answer = server.post("/v1/completions", {**BODY, "model": "x", "request_id": "own-404"})
        equal((answer.status, answer.headers["x-request-id"]), (404, "own-404"))
        server.stop()
        for pattern in ("/v1/completions 200 .* id=owncomp .*completion_tokens=4",
                        "/v1/chat/completions 200 .* id=ownchat ", "/v1/embeddings 200 .* id=ownembe ",
                        "/v1/completions 404 .* id=own-404"):
            check(re.search(pattern, server.log_text()), f"{pattern} in {server.log_text()}")
        for name in ("id-0", "id-1"):
            line = next(line for line in server.log if f"id={name}" in line)
            for pattern in (r"POST /v1/completions 200 \d+B [\d.]+ms", r"outcome=length",
                            r"prompt_tokens=\d+", r"completion_tokens=4",
                            r"trace=4bf92f3577b34da6a3ce929d0e0e4736"):
                check(re.search(pattern, line), f"{pattern} in {line}")
        check(any("id=id-e" in line and "completion_tokens=0" in line for line in server.log),
              "embeddings")
        check(any("id=id-bad" in line and " 400 " in line for line in server.log), "refusals")
        check("private" not in server.log_text(), "prompts are not logged")
    finally:
        server.kill()


def wait_line(server, pattern):
    """The first line of the log that has it; calls are logged before their answer is sent."""
    end = time.time() + seconds(10)
    while time.time() < end:
        for line in list(server.log):
            if re.search(pattern, line):
                return line
        time.sleep(0.02)
    raise AssertionError(f"no {pattern} in {server.log_text()[-2000:]}")


@case("logs")
def grpc_calls_have_ids_tokens_and_outcome(server):
    grpc, pb, stub, channel = connect(server)
    ask = pb.GenerateRequest(text="A very private prompt", sampling=pb.SamplingParams(
        max_tokens=4, ignore_eos=True))
    named = pb.GenerateRequest(request_id="own id 7", **{"text": "a"})
    embed = pb.EmbedRequest(inputs=[pb.EmbedInput(text="private words")])

    def ids(call, request, **metadata):
        answer, made = call.with_call(request, metadata=list(metadata.items()))
        return answer, dict(made.initial_metadata())

    with channel:
        sent = {"x-request-id": "grpc-1 <b>", "traceparent": TRACE}
        answer, got = ids(stub.GenerateUnary, ask, **sent)
        equal((got["x-request-id"], got["traceparent"]), ("grpc-1b", TRACE))
        equal(answer.request_id, "grpc-1b", "the message has the id of the metadata")
        stream = stub.Generate(ask, metadata=[("x-request-id", "grpc-2")])
        equal(dict(stream.initial_metadata())["x-request-id"], "grpc-2")
        equal({chunk.request_id for chunk in stream}, {"grpc-2"})
        answer, got = ids(stub.GenerateUnary, named)
        equal((answer.request_id, got["x-request-id"]), ("ownid7", "ownid7"))
        check("traceparent" not in got, got)
        answer, got = ids(stub.GenerateUnary, named, **{"x-request-id": "grpc-3"})
        equal((answer.request_id, got["x-request-id"]), ("ownid7", "grpc-3"))
        _, got = ids(stub.Tokenize, pb.TokenizeRequest(text="a"), traceparent="x")
        check(re.fullmatch(r"[0-9a-f]{32}", got["x-request-id"]), got)
        wait_line(server, rf"grpc Tokenize OK [\d.]+ms peer=127.0.0.1 id={got['x-request-id']}$")
        ids(stub.Embed, embed, **{"x-request-id": "grpc-4"})
        wrong = pb.GenerateRequest(text="a", sampling=pb.SamplingParams(n=0))
        fails(grpc, grpc.StatusCode.INVALID_ARGUMENT,
              lambda: stub.GenerateUnary(wrong, metadata=[("x-request-id", "grpc-5")]))
    for method, name in (("GenerateUnary", "grpc-1b"), ("Generate", "grpc-2")):
        line = wait_line(server, f"id={name}")
        check(re.search(rf"grpc {method} OK [\d.]+ms peer=127.0.0.1 id={name} outcome=length "
                        r"prompt_tokens=\d+ cached_tokens=\d+ completion_tokens=4", line), line)
    check("trace=4bf92f3577b34da6a3ce929d0e0e4736" in wait_line(server, "id=grpc-1b"), "trace")
    check("completion_tokens=0" in wait_line(server, "Embed OK .* id=grpc-4"), "embeddings")
    wait_line(server, "GenerateUnary INVALID_ARGUMENT .* id=grpc-5$")
    check("private" not in server.log_text(), "prompts are not logged")


@case("logs", own_server=True)
def prompts_and_slow_requests_when_asked():
    server = Server(args=["--http.log_prompts", "--http.slow_request=1ms"])
    try:
        server.post("/v1/completions", {**BODY, "prompt": "shown\nhere", "max_tokens": 50},
                    {"X-Request-Id": "slow-1"})
        server.stop()
        check(any("slow-1" in line and "shown\\\\nhere" in line for line in server.log),
              server.log_text())
        check(re.search(r"slow request slow-1: \d+ms, queue \d+ms, prefill \d+ms, decode \d+ms",
                        server.log_text()), "slow request")
    finally:
        server.kill()


@case("logs")
def trace_context_is_passed_through(server):
    equal(server.get("/health", {"traceparent": TRACE}).headers.get("traceparent"), TRACE)
    for wrong in ("x", TRACE.upper(), TRACE[:-1], "01" + TRACE[2:], TRACE.replace("4bf9", "zzzz"),
                  "00-" + "0" * 32 + TRACE[35:]):
        equal(server.get("/health", {"traceparent": wrong}).headers.get("traceparent"), None)


@case("logs")
def timing_when_asked(server):
    answer = server.post("/v1/completions", BODY, {"X-Request-Timing": "1"})
    check(re.fullmatch(r"queue;dur=[\d.]+, prefill;dur=[\d.]+, decode;dur=[\d.]+",
                       answer.headers["server-timing"]), answer.headers)
    check("server-timing" not in server.post("/v1/completions", BODY).headers, "not asked for")


@case("logs", own_server=True)
def debug_view_shows_what_runs():
    server = Server(args=["--http.debug"])
    try:
        state = server.get("/debug/engine").json()
        equal((state["sequences_running"], state["blocks"]["used"], state["idle"]), (0, 0, True))
        check(state["blocks"]["total"] > 0, "blocks")
        with server.connect() as sock:
            sock.sendall(post_bytes("/v1/completions", {**BODY, "max_tokens": 1900, "n": 3}))
            end = time.time() + seconds(30)
            # The choices share the prompt's block until they write.
            while state["blocks"]["used"] < 3 and time.time() < end:
                state = server.get("/debug/engine").json()
            equal((state["sequences_running"], state["idle"]), (3, False))
            check(state["blocks"]["used"] >= 3, state)
        server.wait_idle()
        server.stop()
    finally:
        server.kill()


@case("logs")
def debug_view_is_off_by_default(server):
    check_error(server.get("/debug/engine"), 404)
