#!/usr/bin/env python3
"""Every command in a code block of README.md and docs/ is run, or its options are looked up in the
program's own --help, or another test that runs it is named here."""
import glob
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import unittest

from common import BINARY, BUILD, MODEL, ROOT, main, read
from harness import Server

# Who runs what this file does not run, or runs in part: a file that names the program.
RUN_BY = {
    "deploy/quickstart": "tests/deploy/quickstart_test.py",
    "deploy/install_packages": "tests/deploy/quickstart_test.py",
    "deploy/package": "tests/deploy/tarball_test.py", "deploy/sbom": "tests/deploy/supply_test.py",
    "deploy/reproduce": ".ci/run", "tests/run": ".ci/run", ".ci/run": ".ci/run",
    "cmake": "tests/deploy/package_test.py", "(cd": "tests/deploy/package_test.py",
    "docker": "tests/deploy/container_test.py", "helm": "tests/deploy/kubernetes_test.py",
}
TOOLS = ("palu-compress", "palu-eval", "palu-bench", "palu-server")


def commands(path):
    """(line, command) of every block of commands; a block that begins otherwise is something else."""
    page = read(path)
    fence = re.compile(r"^```(\w*)\n(.*?)^```\n?", re.M | re.S)
    blocks = [text for language, text in fence.findall(page) if language in ("", "bash", "sh")]
    blocks += re.findall(r"(?<=\n\n)((?:    .*\n)+)", fence.sub("", page))
    for block in blocks:
        text = block.replace("\\\n", " ")
        lines = [re.sub(r"\s+#\s.*$", "", line).strip() for line in text.split("\n")]
        lines = [line for line in lines if line and not line.startswith("#")]
        if lines and known(lines[0]):
            yield from lines


def program_of(command):
    words = command.split()
    while "=" in words[0]:
        words = words[1:]
    return words[0]


def known(command):
    program = program_of(command)
    return (os.path.basename(program) in TOOLS + ("curl", "kubectl", "promtool", "config_test")
            or program in RUN_BY)


def documents():
    found = ["README.md"] + glob.glob(os.path.join(ROOT, "docs", "**", "*.md"), recursive=True)
    return sorted(os.path.relpath(os.path.join(ROOT, p), ROOT) for p in found)


def tool(name):
    folder = "server" if name == "palu-server" else "tools"
    return os.path.join(BUILD, folder, name)


def need_module(name):
    if importlib.util.find_spec(name) is None:
        raise unittest.SkipTest(f"{name} is not installed")


class DocsTest(unittest.TestCase):
    def test_every_line_of_a_block_of_commands_is_accounted_for(self):
        total = 0
        for path in documents():
            for command in commands(path):
                self.assertTrue(known(command), f"{path}: {command}: what runs this? Say so here.")
                total += 1
        self.assertGreater(total, 15)

    def test_others_run_what_is_not_run_here(self):
        for program, path in RUN_BY.items():
            name = "cpack" if program == "(cd" else os.path.basename(program)
            self.assertRegex(read(path), rf"\b{name}\b", program)

    def test_options_of_our_programs_are_what_they_say(self):
        helps = {}
        for path in documents():
            in_text = re.findall(rf"`((?:{'|'.join(TOOLS)}) [^`]+)`", read(path).replace("\n", " "))
            for command in [*commands(path), *in_text]:
                name = os.path.basename(program_of(command))
                if name not in TOOLS:
                    continue
                words = command.split()[1:]
                plain = words[0] if words and re.fullmatch(r"[a-z]+", words[0]) else ""
                if (name, plain) not in helps:
                    done = subprocess.run([tool(name), *([plain] if plain else []), "--help"],
                                          capture_output=True, text=True, check=False)
                    self.assertEqual(done.returncode, 0, f"{path}: {command}: {done.stderr}")
                    helps[name, plain] = done.stdout
                for flag in re.findall(r"(?<=\s)--[a-z][a-z._-]*", command):
                    self.assertIn(flag, helps[name, plain], f"{path}: {command}")

    def test_paths_in_commands_are_there(self):
        for path in documents():
            for command in commands(path):
                for word in shlex.split(command):
                    if re.match(r"(deploy|models|config|tests|docs)/", word):
                        self.assertTrue(os.path.exists(os.path.join(ROOT, word)),
                                        f"{path}: {command}: {word}")

    def test_the_tour_works_as_it_is_written(self):
        tour = list(commands("README.md"))
        # Compressing takes a minute, and quickstart_test.py does it: here the model as it is.
        small = MODEL
        (serve,) = [c for c in tour if program_of(c).endswith("palu-server") and "plan" not in c]
        args = [w for w in shlex.split(serve)[1:] if w not in ("--model", "small")]
        Server.binary = BINARY
        server = Server(small, args)
        try:
            self.ask_all(tour, server)
        finally:
            server.kill()

    def test_python_of_the_readme_runs(self):
        need_module("openai")
        Server.binary = BINARY
        server = Server(MODEL)
        try:
            for code in re.findall(r"^```python\n(.*?)^```", read("README.md"), re.M | re.S):
                code = code.replace("localhost:8000", f"127.0.0.1:{server.port}")
                done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                                      check=False, timeout=60)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertTrue(done.stdout.strip())
        finally:
            server.kill()

    def test_requests_of_other_pages_work(self):
        Server.binary = BINARY
        server = Server(MODEL)
        try:
            for path in documents():
                if path != "README.md":
                    self.ask_all(commands(path), server)
        finally:
            server.kill()

    def ask_all(self, lines, server):
        for command in lines:
            if program_of(command) != "curl" or "HOST" in command:
                continue
            words = shlex.split(re.sub(r"(localhost|127\.0\.0\.1):8000",
                                       f"127.0.0.1:{server.port}", command))
            done = subprocess.run([*words, "-sS", "--fail-with-body", "--max-time", "60"],
                                  capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, command + done.stdout + done.stderr)
            self.assertTrue(done.stdout, command)

    def test_plans_and_kustomizations_run(self):
        for path in documents():
            for command in commands(path):
                if command.startswith("palu-server plan"):
                    command = command.replace("/usr/share/palu/models", "models")
                    words = [tool("palu-server"), *shlex.split(command)[1:]]
                elif command.startswith("kubectl kustomize") and shutil.which("kubectl"):
                    words = shlex.split(command)
                else:
                    continue
                if not all(os.path.exists(os.path.join(ROOT, w)) for w in words
                           if w.startswith("models/")):
                    continue
                done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, 0, command + done.stderr)

    def test_the_picture_shows_nothing_that_was_not_measured(self):
        table = set(re.findall(r"^\| (\d+) \|[^|]*\| ([\d.]+)", read("docs", "quality.md"), re.M))
        drawn = re.findall(r"<title>(\d+) bytes, perplexity ([\d.]+)</title>",
                           read("docs", "images", "quality.svg"))
        self.assertGreater(len(drawn), 5)
        for size, perplexity in drawn:
            self.assertIn((size, f"{float(perplexity):.3f}"), table, "run docs/images/quality_svg.py")

    def test_links_between_pages_lead_somewhere(self):
        for path in documents():
            for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", read(path)):
                full = os.path.normpath(os.path.join(ROOT, os.path.dirname(path), target))
                self.assertTrue(os.path.exists(full), f"{path}: {target}")


if __name__ == "__main__":
    main()
