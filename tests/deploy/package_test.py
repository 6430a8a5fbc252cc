#!/usr/bin/env python3
"""The Debian packages: made by CPack, installed into an empty root by dpkg, and run from there as
the unit says, with this test in the place of systemd."""
import glob
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from common import BINARY, BUILD, MODEL, main, need, read
from harness import Server


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600,
                          **options)
    if done.returncode != 0:
        raise AssertionError(f"{command} gave {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


class Manager:
    """The socket that systemd would give to a service with Type=notify; it reads at once, as systemd
    does: the kernel holds few messages."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.messages = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while True:
            self.messages.put(self.socket.recv(4096).decode())

    def until(self, wanted, seconds=60):
        """Messages up to and with the first that has the line."""
        seen, end = [], time.time() + seconds
        while time.time() < end:
            try:
                seen.append(self.messages.get(timeout=max(end - time.time(), 0.01)))
            except queue.Empty:
                break
            if wanted in seen[-1].split("\n"):
                return seen
        raise AssertionError(f"no {wanted} in {seen}")


class PackageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need("cpack", "dpkg", "dpkg-deb", "dpkg-shlibdeps", "file")
        cls.folder = tempfile.mkdtemp(prefix="palu-package-")
        with open(os.path.join(BUILD, "CMakeCache.txt"), encoding="utf-8") as file:
            if "\nCMAKE_INSTALL_PREFIX:PATH=/usr\n" not in file.read():
                # Builds for tests have CMake's own prefix; packages are for /usr.
                run("cmake", "-DCMAKE_INSTALL_PREFIX=/usr", BUILD)
        run("cpack", "-B", cls.folder, cwd=BUILD)
        cls.root = os.path.join(cls.folder, "root")
        os.makedirs(os.path.join(cls.root, "var/lib/dpkg/updates"))
        for name in ("status", "available"):
            with open(os.path.join(cls.root, "var/lib/dpkg", name), "w", encoding="utf-8"):
                pass
        (cls.deb,) = glob.glob(os.path.join(cls.folder, "palu-server_*.deb"))
        (cls.model_deb,) = glob.glob(os.path.join(cls.folder, "palu-server-model-*.deb"))
        cls.dpkg("-i", cls.deb, cls.model_deb)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(getattr(cls, "folder", ""), ignore_errors=True)

    @classmethod
    def dpkg(cls, *args):
        return run("dpkg", f"--root={cls.root}", "--force-depends", "--force-not-root",
                   "--force-script-chrootless", *args)

    def path(self, *parts):
        return os.path.join(self.root, *parts)

    def test_control_data(self):
        fields = run("dpkg-deb", "-f", self.deb)
        for library in ("libc6", "libgrpc", "libstdc++6", "libyaml-cpp", "libsentencepiece"):
            self.assertIn(library, fields)
        self.assertIn("/etc/palu/palu_server.yaml",
                      self.dpkg("-s", "palu-server").split("Conffiles:")[1])
        self.assertIn("Architecture: all", run("dpkg-deb", "-f", self.model_deb))

    def test_no_file_knows_where_it_was_built(self):
        for name in ("palu-server", "palu-compress", "palu-eval"):
            tags = run("readelf", "-d", self.path("usr/bin", name))
            found = re.findall(r"(?:RUNPATH|RPATH)\).*\[(.*)\]", tags)
            self.assertEqual(found, ["$ORIGIN/../lib/palu"], name)
        self.assertTrue(os.path.exists(self.path("usr/lib/palu/libpalu_sentencepiece.so")))

    def test_configuration_is_the_documented_default(self):
        with open(self.path("etc/palu/palu_server.yaml"), encoding="utf-8") as file:
            self.assertEqual(file.read(), read("config", "palu_server.yaml"))

    def unit(self, key):
        with open(self.path("usr/lib/systemd/system/palu-server.service"), encoding="utf-8") as file:
            return re.findall(rf"^{key}=(.*)$", file.read(), re.M)

    def test_the_unit_outlasts_a_drain_and_is_closed(self):
        config = read("config", "palu_server.yaml")
        drain = int(re.search(r"drain_timeout: (\d+)s", config).group(1))
        self.assertGreater(int(self.unit("TimeoutStopSec")[0].rstrip("s")), drain)
        self.assertEqual(self.unit("Type"), ["notify"])
        for key in ("NoNewPrivileges", "DynamicUser", "PrivateTmp", "ProtectHome"):
            self.assertEqual(self.unit(key), ["yes"], key)

    def test_systemd_reads_the_unit_and_finds_it_closed(self):
        need("systemd-analyze")
        with open(self.path("usr/lib/systemd/system/palu-server.service"), encoding="utf-8") as file:
            text = file.read().replace("ExecStart=/usr", f"ExecStart={self.root}/usr")
        copy = os.path.join(self.folder, "palu-server.service")
        with open(copy, "w", encoding="utf-8") as file:
            file.write(text)
        run("systemd-analyze", "verify", "--man=no", copy)
        # Exposure from 0 to 100, where a unit without any restriction has 96.
        run("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=25", copy)

    def test_service_protocol(self):
        """ready, watchdog, reload and stop of the installed program, as the unit starts it."""
        program, *args = self.unit("ExecStart")[0].split()
        args = [self.path(a.lstrip("/")) if a.startswith("/") else a for a in args]
        manager = Manager(self.folder)
        old, Server.binary = Server.binary, self.path(program.lstrip("/"))
        try:
            server = Server(self.path("usr/share/palu/models/classics-14m"), args, env={
                "NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "400000"}, wait=False)
        finally:
            Server.binary = old
        try:
            manager.until("READY=1")
            self.assertEqual(server.get("/ready").status, 200)
            for _ in range(3):
                manager.until("WATCHDOG=1")
            server.process.send_signal(signal.SIGHUP)
            messages = manager.until("RELOADING=1")
            self.assertRegex(messages[-1], r"MONOTONIC_USEC=\d+")
            manager.until("READY=1")
            server.completion(prompt="The sea", max_tokens=4)
            server.signal()
            manager.until("STOPPING=1")
            self.assertEqual(server.wait_exit(), 0)
        finally:
            server.kill()

    def test_zz_removing_keeps_the_configuration_and_purging_takes_it(self):
        self.dpkg("-r", "palu-server")
        self.assertFalse(os.path.exists(self.path("usr/bin/palu-server")))
        self.assertTrue(os.path.exists(self.path("etc/palu/palu_server.yaml")))
        self.dpkg("-P", "palu-server", "palu-server-model-classics-14m")
        self.assertFalse(os.path.exists(self.path("etc/palu")))
        left = [f for f in glob.glob(self.path("usr/**"), recursive=True) if os.path.isfile(f)]
        self.assertEqual(left, [])


class TextsTest(unittest.TestCase):
    """Manual pages and completions, as the build made them."""

    def generated(self, name):
        return os.path.join(BUILD, "deploy", "generated", name)

    def test_manual_pages_are_right_and_whole(self):
        need("mandoc")
        pages = glob.glob(self.generated("*.[15]"))
        self.assertGreaterEqual(len(pages), 5)
        run("mandoc", "-T", "lint", "-W", "error", *pages)
        text = run("mandoc", "-T", "ascii", self.generated("palu-server.1"))
        text = re.sub(r".\x08", "", text)
        flags = re.findall(r"^  (--[a-z_]+\.[a-z_]+)=", run(BINARY, "--help"), re.M)
        self.assertGreater(len(flags), 30)
        for flag in flags:
            self.assertIn(flag, text)

    def complete(self, line):
        script = (f"source {self.generated('palu-server.bash')}; compopt() {{ :; }}; "
                  f"COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=({line} ''); "
                  "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _palu_server; "
                  "printf '%s\\n' \"${COMPREPLY[@]}\"")
        return run("bash", "-c", script).split()

    def test_bash_completes_flags_and_values(self):
        self.assertEqual(self.complete("palu-server --cache.form"), ["--cache.format="])
        self.assertIn("int4", self.complete("palu-server --cache.format="))
        self.assertEqual(self.complete("palu-server --log.format=j"), ["json"])
        self.assertIn("plan", self.complete("palu-server pl"))

    def test_other_shells_read_theirs(self):
        for shell, name in (("zsh", "_palu-server"), ("fish", "palu-server.fish")):
            with open(self.generated(name), encoding="utf-8") as file:
                self.assertIn("cache.format", file.read())
            if shutil.which(shell):
                run(shell, "-n", self.generated(name))


class PlanTest(unittest.TestCase):
    """`palu-server plan` against what the server then really has."""

    def test_the_plan_is_what_the_server_gets(self):
        plan = run(BINARY, "plan", "--model", MODEL, "--gpu-memory", "256MiB", "--context=1000",
                   "--cache.format=int4")
        memory = re.search(r"--cache.memory=(\d+)B", plan).group(1)
        tokens = int(re.search(r"tokens +(\d+)\n", plan).group(1))
        users = int(re.search(r"users +(\d+) with 1000 tokens", plan).group(1))
        self.assertEqual(users, tokens // 16 // 63)  # 63 blocks of 16 tokens hold 1000
        old, Server.binary = Server.binary, BINARY
        try:
            server = Server(MODEL, [f"--cache.memory={memory}B", "--cache.format=int4"])
        finally:
            Server.binary = old
        try:
            self.assertEqual(server.metric("palu:kv_cache_capacity_tokens"), tokens)
            weights = float(re.search(r"weights +([\d.]+) GiB", plan).group(1)) * 2**30
            self.assertLess(abs(server.metric("palu:weights_bytes") - weights), 2**20)
            self.assertIn(f"{server.metric('palu:kv_cache_bytes_per_token'):.1f} against 6144.0",
                          plan)
            server.stop()
        finally:
            server.kill()

    def test_mistakes_are_one_line(self):
        for args, said in (((), "--gpu-memory: not set"), (("--gpu-memory", "lots"), "lots"),
                           (("--gpu-memory=1GiB", "--context=5000"), "at most 2048"),
                           (("--gpu-memory=1MiB",), "expected room for one user's cache")):
            done = subprocess.run([BINARY, "plan", "--model", MODEL, *args], check=False,
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 2, args)
            self.assertEqual(len(done.stderr.strip().split("\n")), 1)
            self.assertIn(said, done.stderr)


if __name__ == "__main__":
    main()
