"""TLS and client certificates on both ports, and certificates that change."""

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time

from harness import Server, Skip, case, check, equal, seconds
from test_grpc import stubs


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


class Authority:
    """A certificate authority of one test."""

    def __init__(self):
        if shutil.which("openssl") is None:
            raise Skip("openssl is not installed")
        self.directory = tempfile.mkdtemp(prefix="palu-tls-")
        self.make("ca", None)

    def path(self, name):
        return os.path.join(self.directory, name)

    def make(self, name, signer="ca"):
        """NAME.pem and NAME.key, replaced as one rename each."""
        key, pem, request = self.path("new.key"), self.path("new.pem"), self.path("new.csr")
        subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        if signer is None:
            openssl("req", "-x509", *new, "-keyout", key, "-out", pem, "-days", "2", "-subj",
                    f"/CN={name}")
        else:
            openssl("req", *new, "-keyout", key, "-out", request, *subject)
            openssl("x509", "-req", "-in", request, "-CA", self.path(f"{signer}.pem"), "-CAkey",
                    self.path(f"{signer}.key"), "-CAcreateserial", "-days", "2", "-out", pem,
                    "-copy_extensions", "copy")
        os.rename(key, self.path(f"{name}.key"))
        os.rename(pem, self.path(f"{name}.pem"))

    def arguments(self):
        return [f"--tls.cert_file={self.path('server.pem')}",
                f"--tls.key_file={self.path('server.key')}"]

    def context(self, client=None):
        context = ssl.create_default_context(cafile=self.path("ca.pem"))
        if client:
            context.load_cert_chain(self.path(f"{client}.pem"), self.path(f"{client}.key"))
        return context

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()


class TlsServer(Server):
    """The harness's server, asked over TLS."""

    context = None

    def request(self, method, path, body=None, headers=None, timeout=60):
        from harness import Response
        connection = http.client.HTTPSConnection("127.0.0.1", self.port,
                                                 timeout=seconds(timeout), context=self.context)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()},
                            answer.read())
        finally:
            connection.close()


def start(authority, client=None, args=()):
    context = authority.context(client)
    kind = type("Started", (TlsServer,), {"context": context})
    return kind(args=[*authority.arguments(), *args])


def serial(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds(10)) as raw:
        with server.context.wrap_socket(raw, server_hostname="localhost") as sock:
            return sock.getpeercert()["serialNumber"]


def grpc_live(server, authority, client=None):
    grpc, pb, services = stubs()
    pair = {} if client is None else {"private_key": authority.read(f"{client}.key"),
                                      "certificate_chain": authority.read(f"{client}.pem")}
    credentials = grpc.ssl_channel_credentials(authority.read("ca.pem"), **pair)
    with grpc.secure_channel(f"localhost:{server.grpc_port}", credentials) as channel:
        try:
            stub = services.InferenceServiceStub(channel)
            info = stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=seconds(10))
            return info.id == "classics-14m"
        except grpc.RpcError:
            return False


@case("tls", own_server=True)
def both_ports_and_reload():
    authority = Authority()
    authority.make("server")
    server = start(authority)
    try:
        equal(server.completion(prompt="a", max_tokens=3, ignore_eos=True)["usage"]
              ["completion_tokens"], 3)
        events = server.stream(prompt="The sea", max_tokens=5, ignore_eos=True)
        check(len(events) >= 2, "a stream")
        big = server.post("/tokenize", {"prompt": "word " * 200000})
        equal(big.status, 200, "a body of a megabyte")
        with server.connect() as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            try:
                data = plain.recv(100)
            except ConnectionResetError:
                data = b""
            check(not data.startswith(b"HTTP/1.1 200"), "no answer in clear")
        check(grpc_live(server, authority), "gRPC over TLS")
        before = serial(server)
        with socket.create_connection(("127.0.0.1", server.port), timeout=seconds(10)) as raw:
            with server.context.wrap_socket(raw, server_hostname="localhost") as kept:
                authority.make("server")
                server.signal(signal.SIGHUP)
                end = time.time() + seconds(10)
                while serial(server) == before:
                    check(time.time() < end, "the new certificate is not used")
                    time.sleep(0.1)
                kept.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                check(kept.recv(100).startswith(b"HTTP/1.1 200 "), "old connections go on")
        with open(authority.path("server.pem"), "w", encoding="ascii") as file:
            file.write("nonsense")
        server.signal(signal.SIGHUP)
        end = time.time() + seconds(10)
        while "tls.cert_file" not in server.log_text():
            check(time.time() < end, "no error is logged")
            time.sleep(0.1)
        equal(server.get("/health").status, 200, "the old certificate stays")
        server.stop()
    finally:
        server.kill()


@case("tls", own_server=True)
def clients_that_leave():
    authority = Authority()
    authority.make("server")
    server = start(authority)
    try:
        for stream in (False, True):
            body = json.dumps({"prompt": "The sea", "max_tokens": 2000, "ignore_eos": True,
                               "stream": stream}).encode()
            raw = socket.create_connection(("127.0.0.1", server.port), timeout=seconds(10))
            sock = server.context.wrap_socket(raw, server_hostname="localhost")
            sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: "
                         b"%d\r\n\r\n" % len(body) + body)
            end = time.time() + seconds(20)
            while server.metric("vllm:num_requests_running") < 1:
                check(time.time() < end, "does not run")
            sock.close()
            server.wait_idle(5)
        # Handshakes that never end, and those that are no TLS, do not hold anything up.
        idle = [server.connect() for _ in range(50)]
        for sock in idle[:25]:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        equal(server.get("/health").status, 200)
        for sock in idle:
            sock.close()
        server.stop()
    finally:
        server.kill()


@case("tls", own_server=True)
def client_certificates():
    authority = Authority()
    authority.make("server")
    authority.make("client")
    other = Authority()
    other.make("stranger")
    server = start(authority, "client", [f"--tls.client_ca_file={authority.path('ca.pem')}"])
    try:
        equal(server.get("/v1/models").status, 200)
        check(grpc_live(server, authority, "client"), "gRPC with a certificate")
        check(not grpc_live(server, authority), "gRPC without one")
        stranger = authority.context()
        stranger.load_cert_chain(other.path("stranger.pem"), other.path("stranger.key"))
        for context in (authority.context(), stranger):
            try:
                connection = http.client.HTTPSConnection("127.0.0.1", server.port,
                                                         timeout=seconds(10), context=context)
                connection.request("GET", "/health")
                status = connection.getresponse().status
            except (OSError, http.client.HTTPException):
                status = None
            equal(status, None, "refused without a certificate of ours")
        server.stop()
    finally:
        server.kill()


@case("tls", own_server=True)
def wrong_files_stop_the_start():
    authority = Authority()
    authority.make("server")
    for arguments, word in ((["--tls.cert_file=/nowhere"], "tls.key_file"),
                            (["--tls.cert_file=/nowhere", "--tls.key_file=/nowhere"],
                             "tls.cert_file"),
                            ([f"--tls.cert_file={authority.path('server.pem')}",
                              f"--tls.key_file={authority.path('ca.key')}"], "tls.key_file"),
                            ([f"--tls.client_ca_file={authority.path('ca.pem')}"],
                             "tls.client_ca_file")):
        found = subprocess.run([Server.binary, "--model=x", "--http.port=0", "--grpc.port=0",
                                *arguments], capture_output=True, text=True, timeout=seconds(30),
                               check=False)
        equal(found.returncode, 2, found.stderr)
        check(word in found.stderr and found.stderr.count("\n") == 1, found.stderr)
