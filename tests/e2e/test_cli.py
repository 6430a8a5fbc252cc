"""Command line and start-up errors: one line, exit code 2."""

import os
import re
import shutil
import socket
import subprocess
import tempfile

from harness import MODEL, Server, case, check, equal, seconds


def run(*args, env=None, timeout=60):
    result = subprocess.run([Server.binary, *args], capture_output=True, text=True,
                            timeout=seconds(timeout), check=False,
                            env={**os.environ, **(env or {})})
    return result.returncode, result.stdout, result.stderr


def refused(*args, says, **kwargs):
    """Ends with 2 and one line with these words."""
    code, _, err = run(*args, **kwargs)
    equal(code, 2, err)
    lines = [line for line in err.splitlines() if not line.startswith("20")]  # log lines
    equal(len(lines), 1, err)
    for word in says:
        check(word in lines[0], f"'{word}' is not in: {lines[0]}")


LOCAL = ("--http.address=127.0.0.1", "--grpc.address=127.0.0.1", "--http.port=0",
         "--grpc.port=0", "--cache.memory=64MiB")


@case("cli", own_server=True)
def version_help_and_config():
    code, out, _ = run("--version")
    check(code == 0 and out.startswith("palu-server "), out)
    code, out, _ = run("--help")
    check(code == 0 and "--http.port" in out, out)
    code, out, _ = run("--print-config", "--http.port=1234")
    check(code == 0 and "port: 1234" in out, out)
    code, out, _ = run("--check-config", "--model", MODEL)
    equal((code, out), (0, "the configuration is valid\n"))


@case("cli", own_server=True)
def wrong_settings():
    refused("--nonsense=1", says=["nonsense"])
    refused("--http.port=99999", "--model", MODEL, says=["http.port", "99999"])
    refused("--http.port=x", says=["http.port"])
    refused(says=["model"])
    refused("--check-config", env={"PALU_HTTP_PORT": "x", "PALU_MODEL_PATH": MODEL},
            says=["PALU_HTTP_PORT"])
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write("http:\n  prot: 1\n")
        file.flush()
        refused("--config", file.name, says=[file.name, "prot"])


@case("cli", own_server=True)
def ports_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused("--model", MODEL, *LOCAL, "--http.port=" + port, says=[port, "http.port", "in use"])
        refused("--model", MODEL, *LOCAL, "--grpc.port=" + port, says=[port, "grpc.port", "in use"])
    refused("--model", MODEL, *LOCAL, "--http.address=203.0.113.1", says=["203.0.113.1"])


@case("cli", own_server=True)
def models_that_are_not_there_or_broken():
    refused("--model", "/nonexistent", *LOCAL, says=["/nonexistent"])
    with tempfile.TemporaryDirectory() as directory:
        broken = os.path.join(directory, "m")
        for name, data, says in (("config.json", b"{", "config.json"),
                                 ("tokenizer.json", b"[]", "tokenizer.json"),
                                 ("model.safetensors", b"\xff" * 100, "model.safetensors")):
            shutil.copytree(MODEL, broken)
            with open(os.path.join(broken, name), "wb") as file:
                file.write(data)
            refused("--model", broken, *LOCAL, says=[says])
            shutil.rmtree(broken)
        shutil.copytree(MODEL, broken)
        os.truncate(os.path.join(broken, "model.safetensors"), 1000000)
        refused("--model", broken, *LOCAL, says=["model.safetensors"])


@case("cli", own_server=True)
def caches_and_contexts_that_do_not_fit():
    refused("--model", MODEL, *LOCAL, "--cache.memory=100KiB", says=["cache"])
    refused("--model", MODEL, *LOCAL, "--model.max_context_tokens=100000", says=["2048"])


@case("cli", own_server=True)
def version_says_commit_and_build_options():
    code, out, _ = run("--version")
    equal(code, 0)
    lines = out.splitlines()
    equal(len(lines), 3, out)
    check(re.fullmatch(r"commit (unknown|[0-9a-f]{12}(-modified)?)", lines[1]), lines[1])
    check(re.fullmatch(r"build \w+, \w+ [\d.]+, CUDA (ON|OFF), sanitizers \S+", lines[2]), lines[2])
