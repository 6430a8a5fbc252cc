"""Clients that leave, wholly or with one side."""

import os
import socket
import struct
import time

from harness import Server, Skip, case, check, equal, post_bytes, read_all, seconds

LONG = {"prompt": "The sea", "max_tokens": 2000, "ignore_eos": True}


def wait_running(server, count=1):
    end = time.time() + seconds(20)
    while server.metric("vllm:num_requests_running") < count:
        check(time.time() < end, "the request does not run")
        time.sleep(0.01)


def close(sock, reset):
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def leaves(server, body, reset):
    """The request ends soon after its client has closed. Returns how soon."""
    before = server.metric("palu:requests_cancelled_total", reason="client")
    sock = server.connect()
    sock.sendall(post_bytes("/v1/completions", body))
    wait_running(server)
    close(sock, reset)
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


def keepalive_seconds(port, peer_port):
    """What /proc/net/tcp says of the keepalive timer of the server's end; None: it has none."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        for line in file.read().splitlines()[1:]:
            fields = line.split()
            ports = [int(address.split(":")[1], 16) for address in fields[1:3]]
            if ports == [port, peer_port]:
                kind, ticks = fields[5].split(":")
                return int(ticks, 16) / 100 if kind == "02" else None
    raise AssertionError("the connection is not there")


@case("disconnect")
def silent_http_clients_are_probed(server):
    with server.connect() as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        check(sock.recv(4096), "no answer")
        end = time.time() + seconds(5)
        left = None
        # The timer that repeats unacknowledged data hides this one for some milliseconds.
        while left is None and time.time() < end:
            left = keepalive_seconds(server.port, sock.getsockname()[1])
            time.sleep(0.01)
    check(left is not None and 50 < left <= 60, f"{left}; http.tcp_keepalive is 60s")


@case("disconnect", own_server=True)
def vanished_http_client_is_found():
    """A peer whose machine lost power sends neither FIN nor RST: here, a socket that is dropped."""
    tcp_repair = 19
    server = Server(args=["--http.tcp_keepalive=1s", "--engine.cpu_threads=1"])
    try:
        sock = server.connect()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, tcp_repair, 0)
        except PermissionError:
            raise Skip("TCP_REPAIR needs CAP_NET_ADMIN") from None
        sock.sendall(post_bytes("/v1/completions", {**LONG, "n": 4}))
        wait_running(server)
        sock.setsockopt(socket.IPPROTO_TCP, tcp_repair, 1)
        sock.close()
        server.wait_idle(10)
        equal(server.metric("palu:requests_cancelled_total", reason="client"), 1)
        server.stop()
    finally:
        server.kill()


@case("disconnect", own_server=True)
def vanished_grpc_client_is_found():
    """A peer that answers no ping is closed."""
    server = Server(args=["--grpc.keepalive=1s"])
    try:
        with socket.create_connection(("127.0.0.1", server.grpc_port), timeout=seconds(20)) as sock:
            settings = struct.pack(">IBI", 4, 0, 0)  # length 0 and type 4, flags, stream 0
            sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
            started = time.time()
            got = read_all(sock)
            took = time.time() - started
        check(b"\0\0\x08\x06\0" in got, f"no ping in {got!r}")
        check(1 < took < seconds(10), f"closed after {took:.1f} s")
        server.stop()
    finally:
        server.kill()


@case("disconnect")
def leaving_at_every_byte_of_a_request(server):
    """Head, body and what follows; every connection comes home and every request ends."""
    folder = f"/proc/{server.process.pid}/fd"
    before = len(os.listdir(folder))
    request = post_bytes("/v1/completions", {**LONG, "stream": True})
    for length in range(len(request) + 1):
        sock = server.connect()
        sock.sendall(request[:length])
        close(sock, reset=length % 2 == 1)
    server.wait_idle(10)
    end = time.time() + seconds(10)
    while len(os.listdir(folder)) > before:
        check(time.time() < end, "connections are left over")
        time.sleep(0.05)
    equal(server.completion(prompt="a", max_tokens=2, ignore_eos=True)["usage"]
          ["completion_tokens"], 2)


@case("disconnect")
def leaving_at_every_part_of_an_answer(server):
    """After so many bytes of the stream's head, of its events and of its end."""
    body = {"prompt": "The sea", "max_tokens": 12, "ignore_eos": True, "stream": True,
            "temperature": 0}
    whole = len(server.raw(post_bytes("/v1/completions", body, "Connection: close\r\n")))
    for length in range(1, whole, max(1, whole // 40)):
        sock = server.connect()
        sock.sendall(post_bytes("/v1/completions", body))
        data = b""
        # How the chunks are cut varies a little from one time to the next.
        while len(data) < length and not data.endswith(b"\r\n0\r\n\r\n"):
            part = sock.recv(length - len(data))
            check(part, "ended early")
            data += part
        close(sock, reset=length % 2 == 1)
    server.wait_idle(10)


@case("disconnect", own_server=True)
def leaving_the_queue():
    server = Server(args=["--engine.max_sequences=1"])
    try:
        running = server.connect()
        running.sendall(post_bytes("/v1/completions", LONG))
        wait_running(server)
        for reset in (False, True):
            before = server.metric("palu:requests_cancelled_total", reason="client")
            waiting = server.connect()
            waiting.sendall(post_bytes("/v1/completions", LONG))
            for wanted in (1, 0):
                end = time.time() + seconds(10)
                while server.metric("vllm:num_requests_waiting") != wanted:
                    check(time.time() < end, f"{wanted} waiting")
                    time.sleep(0.01)
                if wanted:
                    close(waiting, reset)
            equal(server.metric("palu:requests_cancelled_total", reason="client"), before + 1)
            equal(server.metric("vllm:num_requests_running"), 1, "the other goes on")
        running.close()
        server.wait_idle(5)
        server.stop()
    finally:
        server.kill()
