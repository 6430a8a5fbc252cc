"""What the log says of requests; trace context, timing, the debug view."""

import re

from harness import Server, case, check, check_error, equal

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
        server.stop()
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
def debug_view_is_off_by_default():
    server = Server(args=["--http.debug"])
    try:
        state = server.get("/debug/engine").json()
        equal((state["sequences_running"], state["blocks"]["used"], state["idle"]), (0, 0, True))
        check(state["blocks"]["total"] > 0, "blocks")
        server.stop()
    finally:
        server.kill()


@case("logs")
def no_debug_view(server):
    check_error(server.get("/debug/engine"), 404)
