#!/usr/bin/env python3
"""The relocatable tarball: nothing missing in it, and it serves in a root that holds only itself, a
model and the C library."""
import glob
import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest

from common import BUILD, MODEL, ROOT, main, need
from harness import Server

# What a machine has to bring: the C library, and NVIDIA's where CUDA is built in.
C_LIBRARY = r"(ld-linux.*|lib(c|m|dl|rt|pthread|resolv|util|anl|nsl)\.so.*)"
NVIDIA = r"lib(cuda|cudart|cublas|nv)\S*"


def package(*args):
    return subprocess.run([os.path.join(ROOT, "deploy", "package"), *args], capture_output=True,
                          text=True, check=False, timeout=600)


class TarballTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need("xz", "ldd", "readelf")
        cls.folder = tempfile.mkdtemp(prefix="palu-tarball-")
        done = package("--build", BUILD, "--output", cls.folder)
        assert done.returncode == 0, done.stderr
        cls.tarball = done.stdout.strip().split("\n")[-1]
        # Not where it was made, and under a name of its own.
        cls.root = os.path.join(cls.folder, "root")
        os.makedirs(os.path.join(cls.root, "opt"))
        subprocess.run(["tar", "-xf", cls.tarball, "-C", cls.root], check=True)
        (unpacked,) = glob.glob(os.path.join(cls.root, "palu-server-*"))
        cls.home = os.path.join(cls.root, "opt", "some where")
        os.rename(unpacked, cls.home)
        cls.programs = sorted(glob.glob(os.path.join(cls.home, "bin", "*")))
        cls.libraries = sorted(glob.glob(os.path.join(cls.home, "lib", "palu", "*")))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(getattr(cls, "folder", ""), ignore_errors=True)

    def linked(self, file):
        """(name, path) of what the dynamic linker finds for the file, in an empty environment."""
        done = subprocess.run(["ldd", file], capture_output=True, text=True, check=True, env={
            "PATH": os.environ["PATH"]})
        self.assertNotIn("not found", done.stdout, file)
        return [(os.path.basename(name), path) for name, path in
                re.findall(r"^\t(\S+)(?: => (.+))? \(0x", done.stdout, re.M)
                if not name.startswith("linux-vdso")]

    def test_every_library_is_in_it(self):
        self.assertEqual([os.path.basename(p) for p in self.programs],
                         ["palu-bench", "palu-compress", "palu-eval", "palu-server"])
        folder = os.path.join(self.home, "lib", "palu")
        for file in self.programs + self.libraries:
            inside = 0
            for name, path in self.linked(file):
                if re.fullmatch(f"{C_LIBRARY}|{NVIDIA}", name):
                    continue
                self.assertTrue(os.path.exists(os.path.join(folder, name)), f"{name} of {file}")
                # A library that is looked at alone knows nothing of the programs' path.
                if file in self.programs:
                    self.assertEqual(os.path.dirname(os.path.normpath(path)), folder,
                                     f"{name} of {file}")
                    inside += 1
            if file in self.programs:
                self.assertGreater(inside, 1, file)
        self.assertEqual([f for f in self.libraries
                          if re.fullmatch(f"{C_LIBRARY}|{NVIDIA}", os.path.basename(f))], [])

    def test_no_file_knows_where_it_was_built(self):
        for file in self.programs + self.libraries:
            with open(file, "rb") as content:
                self.assertFalse(BUILD.encode() in content.read(), file)

    def test_bill_of_materials(self):
        with open(os.path.join(self.home, "share/doc/palu-server/sbom.json"),
                  encoding="utf-8") as file:
            names = [part["name"] for part in json.load(file)["components"]]
        self.assertTrue(any(n.startswith("libgrpc") for n in names), names)

    def be(self, program):
        """The linker asks /proc, which the bare root has not, where the program lies."""
        link = os.path.join(self.root, "proc", "self", "exe")
        os.makedirs(os.path.dirname(link), exist_ok=True)
        if os.path.lexists(link):
            os.remove(link)
        os.symlink(f"/opt/some where/bin/{program}", link)
        return f"/opt/some where/bin/{program}"

    def test_serves_on_a_bare_machine(self):
        if os.geteuid() != 0:
            self.skipTest("chroot needs root")
        bare = set()
        for file in self.programs + self.libraries:
            for name, path in self.linked(file):
                if re.fullmatch(NVIDIA, name):
                    self.skipTest("a build with CUDA needs NVIDIA's libraries, which are not copied")
                if re.fullmatch(C_LIBRARY, name):
                    bare.add(path or "/lib64/" + name)
        for path in bare:
            target = self.root + os.path.abspath(path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy(os.path.realpath(path), target)
        shutil.copytree(MODEL, os.path.join(self.root, "model"))
        for program in map(os.path.basename, self.programs):
            done = subprocess.run(["chroot", self.root, self.be(program), "--help"],
                                  capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, f"{program}: {done.stderr}")
        starter = os.path.join(self.folder, "start")
        with open(starter, "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\nexec chroot "{self.root}" "{self.be("palu-server")}" "$@"\n')
        os.chmod(starter, 0o755)
        old, Server.binary = Server.binary, starter
        try:
            server = Server("/model")
        finally:
            Server.binary = old
        try:
            answer = server.completion(prompt="The sea", max_tokens=4)
            self.assertEqual(answer["usage"]["completion_tokens"], 4)
            server.signal()
            self.assertEqual(server.wait_exit(), 0)
        finally:
            server.kill()

    def test_the_same_input_gives_the_same_bytes(self):
        again = os.path.join(self.folder, "again")
        done = package("--build", BUILD, "--output", again)
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(self.tarball, "rb") as one, open(done.stdout.strip(), "rb") as other:
            self.assertTrue(one.read() == other.read())

    def test_wrong_arguments_are_named(self):
        for args, message in ((["--cuda", "maybe"], "--cuda maybe: expected ON, OFF or AUTO"),
                              (["--build", self.folder], "has no server/palu-server"),
                              (["--output"], "--output needs a value"),
                              (["--what"], "unknown option --what")):
            done = package(*args)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(message, done.stderr)


if __name__ == "__main__":
    main()
