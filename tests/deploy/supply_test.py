#!/usr/bin/env python3
"""Bill of materials, reproducibility."""
import json
import os
import subprocess
import unittest

from common import BINARY, BUILD, ROOT, main, need

PROGRAMS = ["server/palu-server"] + [f"tools/palu-{tool}" for tool in ("compress", "eval", "bench")]


class SbomTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need("dpkg-query", "ldd")
        done = subprocess.run([os.path.join(ROOT, "deploy", "sbom"), BINARY], capture_output=True,
                              text=True, check=False)
        assert done.returncode == 0, done.stderr
        cls.sbom = json.loads(done.stdout)

    def test_form(self):
        self.assertEqual((self.sbom["bomFormat"], self.sbom["specVersion"]), ("CycloneDX", "1.5"))
        self.assertRegex(self.sbom["metadata"]["component"]["version"], r"^\d+\.\d+\.\d+$")
        for part in self.sbom["components"]:
            self.assertRegex(part["purl"], r"^pkg:deb/\w+/[^@]+@[^?]+\?arch=\w+&distro=")
            self.assertTrue(part["version"])

    def test_every_linked_library_is_in_it(self):
        files = ", ".join(p["value"] for part in self.sbom["components"]
                          for p in part["properties"] if p["name"] == "files").split(", ")
        linked = [os.path.realpath(line.split("=>")[1].split()[0]) for line in subprocess.run(
            ["ldd", BINARY], capture_output=True, text=True, check=True).stdout.split("\n")
            if "=> /" in line]
        self.assertGreater(len(linked), 20)
        self.assertEqual({os.path.basename(f) for f in linked} - set(files), set())
        names = " ".join(part["name"] for part in self.sbom["components"])
        for name in ("libgrpc", "libprotobuf", "libstdc++6", "libyaml-cpp", "libc6"):
            self.assertIn(name, names)

    def test_a_missing_library_is_an_error(self):
        done = subprocess.run([os.path.join(ROOT, "deploy", "sbom"), "/nonexistent"],
                              capture_output=True, text=True, check=False)
        self.assertNotEqual(done.returncode, 0)


class ReproducibleTest(unittest.TestCase):
    """What is quick to see; deploy/reproduce builds twice and compares, in .ci/run."""

    def test_no_program_knows_where_or_when_it_was_built(self):
        date = subprocess.run(["date", "+%b %e %Y"], capture_output=True, check=True).stdout.strip()
        for program in PROGRAMS:
            with open(os.path.join(BUILD, program), "rb") as file:
                content = file.read()
            for trace in (f"{ROOT}/".encode(), f"{os.path.realpath(BUILD)}/".encode(), b"__DATE__", date):
                self.assertFalse(trace in content, f"{trace} in {program}")

    def test_mistakes_of_the_check_are_told(self):
        for args, said in ((["--what"], "unknown option --what"), (["--against"], "needs a value"),
                           (["one"], "pairs of TARGET and FILE"),
                           (["--against", "/nonexistent"], "/nonexistent has no server/palu-server")):
            done = subprocess.run([os.path.join(ROOT, "deploy", "reproduce"), *args], check=False,
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 1, args)
            self.assertIn(said, done.stderr)


if __name__ == "__main__":
    main()
