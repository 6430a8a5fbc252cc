"""Clients that leave, wholly or with one side."""

import socket
import struct
import time

from harness import case, check, equal, post_bytes, read_all, seconds

LONG = {"prompt": "The sea", "max_tokens": 2000, "ignore_eos": True}


def wait_running(server, count=1):
    end = time.time() + seconds(20)
    while server.metric("vllm:num_requests_running") < count:
        check(time.time() < end, "the request does not run")
        time.sleep(0.01)


def leaves(server, body, reset):
    """The request ends soon after its client has closed. Returns how soon."""
    before = server.metric("palu:requests_cancelled_total", reason="client")
    sock = server.connect()
    sock.sendall(post_bytes("/v1/completions", body))
    wait_running(server)
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    started = time.time()
    server.wait_idle(5)
    took = time.time() - started
    equal(server.metric("palu:requests_cancelled_total", reason="client"), before + 1)
    return took


@case("disconnect")
def unary_client_closes(server):
    check(leaves(server, LONG, reset=False) < seconds(2), "late")


@case("disconnect")
def unary_client_resets(server):
    check(leaves(server, LONG, reset=True) < seconds(2), "late")


@case("disconnect")
def streaming_client_closes(server):
    check(leaves(server, {**LONG, "stream": True}, reset=False) < seconds(2), "late")


@case("disconnect")
def streaming_client_resets(server):
    check(leaves(server, {**LONG, "stream": True}, reset=True) < seconds(2), "late")


@case("disconnect")
def half_closed_client_gets_its_answer(server):
    body = {"prompt": "The sea", "max_tokens": 150, "ignore_eos": True}
    answer = server.raw(post_bytes("/v1/completions", body), half_close=True)
    check(answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer[:200])
    check(b'"completion_tokens":150' in answer, answer[-300:])
    stream = server.raw(post_bytes("/v1/completions", {**body, "stream": True}), half_close=True)
    check(stream.startswith(b"HTTP/1.1 200 OK\r\n"), stream[:200])
    check(b"data: [DONE]\n\n" in stream, stream[-300:])


@case("disconnect")
def half_closed_then_gone(server):
    sock = server.connect()
    sock.sendall(post_bytes("/v1/completions", LONG))
    wait_running(server)
    sock.shutdown(socket.SHUT_WR)
    time.sleep(0.2)
    sock.close()
    server.wait_idle(6)


@case("disconnect")
def pipelined_data_does_not_hide_the_end(server):
    sock = server.connect()
    sock.sendall(post_bytes("/v1/completions", LONG) + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    wait_running(server)
    sock.close()
    server.wait_idle(5)


@case("disconnect")
def slow_reader_does_not_hold_the_engine(server):
    """A stream that nobody reads runs on (or is cancelled); others are served meanwhile."""
    with server.connect() as sock:
        sock.sendall(post_bytes("/v1/completions",
                                {**LONG, "max_tokens": 1200, "stream": True, "n": 4,
                                 "logprobs": 20}))
        wait_running(server)
        equal(server.completion(prompt="a", max_tokens=3, ignore_eos=True)["usage"]
              ["completion_tokens"], 3)
        server.wait_idle(60)
        data = read_all_until_done(sock)
    check(b"data: [DONE]" in data, "the rest is still delivered")


def read_all_until_done(sock):
    data = b""
    while b"data: [DONE]" not in data[-400:]:
        part = sock.recv(1 << 20)
        if not part:
            break
        data += part
    return data


@case("disconnect")
def leaving_between_requests(server):
    for _ in range(20):
        server.connect().close()
    with server.connect() as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        check(sock.recv(1000).startswith(b"HTTP/1.1 200 "), "answer")
        sock.shutdown(socket.SHUT_WR)
        equal(read_all(sock), b"", "closed in turn")
