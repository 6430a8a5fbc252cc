#!/usr/bin/env python3
"""Rules of this repository that a compiler does not check; one verdict per rule.

usage: lint.py [--root DIR]   ends with `N passed, N failed, N skipped`; exit 1 on a violation.
Standard library only. tests/lint/lint_test.py shows for each rule a text that breaks it.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys

CODE = (".h", ".cc", ".cu", ".cuh")
TEXT = CODE + (".py", ".sh", ".txt", ".cmake", ".proto", ".yaml", ".yml", ".json")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_DEVICE_FUNCTION_LINES = 120

# Which folders of ours a folder may include; the longest matching folder decides.
MAY_INCLUDE = {
    "kernels": ("kernels/",),
    "engine": ("engine/", "kernels/", "config/engine_config.h"),
    "config": ("config/",),
    "server/text": ("server/text/", "engine/", "kernels/", "config/engine_config.h"),
    "server/structured": ("server/structured/", "server/text/", "engine/", "kernels/",
                          "config/engine_config.h"),
    "server": ("server/", "engine/", "config/", "palu/"),
    "tools": ("tools/", "engine/", "kernels/", "server/text/", "config/"),
}
OUR_FOLDERS = ("kernels/", "engine/", "config/", "server/", "tools/", "tests/", "palu/", "proto/")
# Libraries that only some folders may see.
LIBRARY_HOMES = (
    (re.compile(r"^(cuda|cub/|cublas|cusolver|curand|cute/|cutlass/|nvtx|mma\.h|nccl)"),
     ("kernels/cuda", "tests/kernels", "tests/bench")),
    (re.compile(r"^(grpc|grpcpp/|google/protobuf/|prometheus/)"),
     ("server", "tests/server", "tests/fuzz")),
    # The load generator is an HTTP client.
    (re.compile(r"^boost/"), ("server", "tools/bench", "tests/server", "tests/tools", "tests/fuzz")),
    (re.compile(r"^spdlog/"), ("server", "tools", "tests/server", "tests/fuzz")),
    (re.compile(r"^yaml-cpp/"), ("config", "tests/config")),
)


def strip_code(text):
    """Comments, literals and preprocessor lines blanked out; line breaks stay."""
    pattern = re.compile(
        r'R"(?P<tag>[^()\\ ]{0,16})\(.*?\)(?P=tag)"|//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"'
        r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'|^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.S | re.M)
    return pattern.sub(lambda m: "\n" * m.group().count("\n") or " ", text)


def functions(text):
    """(first line, lines, is device code) of every outermost function body in C++ text."""
    code = strip_code(text)
    found = []
    head = ""          # text of the declaration that is being read
    head_line = line = 1
    stack = []         # kinds of the open braces: "scope", "function", "data"
    start = None
    for char in code:
        line += char == "\n"
        if "function" not in stack and not head.strip():
            head, head_line = "", line
        if char == "{":
            kind = "data" if "function" in stack or "data" in stack else brace_kind(head)
            if kind == "function":
                start = (head_line, head)
            stack.append(kind)
        elif char == "}" and stack:
            kind = stack.pop()
            if kind == "function":
                device = "__global__" in start[1] or "__device__" in start[1]
                found.append((start[0], line - start[0] + 1, device))
        else:
            kind = "end" if char == ";" else "text"
        if "function" in stack:
            continue
        # Braces of initial values belong to the declaration around them.
        if "data" in stack or kind in ("data", "text"):
            head += char
        else:
            head = ""
    return found


def brace_kind(head):
    words = " ".join(head.split())
    if re.search(r"\)\s*(noexcept\s*)?:[^:]", words):  # a constructor's initializers
        return "function" if words.endswith((")", "}")) else "data"
    if re.match(r"(inline )?namespace\b|extern\s*$", words):
        return "scope"
    if re.match(r"(template ?<.*> ?)?(typedef )?(class|struct|union|enum)\b", words) and \
            not words.endswith(")"):
        return "scope"
    if re.search(r"=[^=]*\[[^\]]*\]( ?\(.*\))?( ?-> ?.*)?$", words):
        return "function"  # a lambda at namespace scope
    if "(" in words and not words.endswith(("=", "(", ",", "return")):
        return "function"
    return "data"


class Repository:
    """The files of one checkout, with their texts."""

    def __init__(self, root):
        self.root = root
        self.texts = {}

    def files(self):
        git = subprocess.run(
            ["git", "-C", self.root, "ls-files", "-co", "--exclude-standard"],
            capture_output=True, text=True, check=False)
        top = subprocess.run(["git", "-C", self.root, "rev-parse", "--show-toplevel"],
                             capture_output=True, text=True, check=False).stdout.strip()
        if git.returncode == 0 and os.path.realpath(top) == os.path.realpath(self.root):
            names = git.stdout.split("\n")
        else:
            names = []
            for folder, folders, files in os.walk(self.root):
                folders[:] = [f for f in folders if not f.startswith((".", "build"))]
                names += [os.path.relpath(os.path.join(folder, f), self.root) for f in files]
        return sorted({n for n in names if n and os.path.isfile(os.path.join(self.root, n))})

    def text(self, name):
        if name not in self.texts:
            with open(os.path.join(self.root, name), encoding="utf-8", errors="replace") as file:
                self.texts[name] = file.read()
        return self.texts[name]

    def code(self):
        return [n for n in self.files() if n.endswith(CODE)]


def includes(text):
    for number, line in enumerate(text.split("\n"), 1):
        match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if match:
            yield number, match.group(1) == '"', match.group(2)


def in_folder(name, folder):
    return name.startswith(folder + "/")


def check_include_direction(repo):
    """server -> engine, config, proto; tools -> engine, server/text, config; engine -> kernels."""
    for name in repo.code():
        homes = [f for f in MAY_INCLUDE if in_folder(name, f)]
        allowed = MAY_INCLUDE[max(homes, key=len)] if homes else None
        for line, quoted, target in includes(repo.text(name)):
            if allowed and target.startswith(OUR_FOLDERS) and not target.startswith(allowed):
                yield f"{name}:{line}: must not include {target}"
            path = os.path.join(repo.root, target)  # NAME.in becomes NAME when CMake runs
            if quoted and not target.startswith(("palu/", "inference/")) and not (
                    os.path.isfile(path) or os.path.isfile(path + ".in")):
                yield f"{name}:{line}: \"{target}\" is no path from the repository's root"
            for pattern, folders in LIBRARY_HOMES:
                if pattern.match(target) and not any(in_folder(name, f) for f in folders):
                    yield f"{name}:{line}: only {', '.join(folders)} may include {target}"


def check_cuda_seam(repo):
    """Only kernels/backend.cc knows whether CUDA is built in; only kernels/cuda is CUDA code."""
    for name in repo.code():
        if in_folder(name, "kernels/cuda") or in_folder(name, "tests") or \
                name == "kernels/backend.cc":
            continue
        if name.endswith((".cu", ".cuh")) and not in_folder(name, "tools/bench"):
            yield f"{name}: CUDA code belongs into kernels/cuda"
        for line, _, target in includes(repo.text(name)):
            if target.startswith("kernels/cuda/"):
                yield f"{name}:{line}: only kernels/backend.cc may include {target}"
        for line, content in enumerate(repo.text(name).split("\n"), 1):
            if re.match(r"\s*#\s*(if|ifdef|ifndef|elif)\b.*CUDA", content):
                yield f"{name}:{line}: only kernels/backend.cc may depend on CUDA being built in"


def check_file_length(repo):
    """No source file is longer than 500 lines."""
    for name in repo.code():
        lines = repo.text(name).count("\n")
        if lines > MAX_FILE_LINES:
            yield f"{name}: {lines} lines, at most {MAX_FILE_LINES}"


def check_function_length(repo):
    """No function is longer than 60 lines, no device function than 120."""
    for name in repo.code():
        for line, length, device in functions(repo.text(name)):
            limit = MAX_DEVICE_FUNCTION_LINES if device else MAX_FUNCTION_LINES
            if length > limit:
                yield f"{name}:{line}: function of {length} lines, at most {limit}"


def check_header_comment(repo):
    """A header starts with a comment that says what it is for, and guards itself."""
    for name in repo.code():
        if not name.endswith((".h", ".cuh")):
            continue
        if not re.match(r"// \S", repo.text(name)):
            yield f"{name}:1: expected a comment that says what the header is for"
        if not re.search(r"^#pragma once$", repo.text(name), re.M):
            yield f"{name}: expected #pragma once"


def check_leftovers(repo):
    """No open ends, no tabs, no blanks at line ends."""
    marker = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    for name in repo.files():
        base = os.path.basename(name)
        is_script = "." not in base and os.access(os.path.join(repo.root, name), os.X_OK)
        is_data = name.startswith(("models/", "tests/golden/", "tests/fuzz/corpus/"))
        if is_data or not (name.endswith(TEXT) or is_script):
            continue
        for line, content in enumerate(repo.text(name).split("\n"), 1):
            if marker.search(content):
                yield f"{name}:{line}: open end: {content.strip()}"
            if "\t" in content:
                yield f"{name}:{line}: tab"
            if content != content.rstrip():
                yield f"{name}:{line}: blank at the end of the line"


def check_run_bits(repo):
    """What starts with #! can be run, and nothing else of ours is marked so."""
    for name in repo.files():
        path = os.path.join(repo.root, name)
        with open(path, "rb") as file:
            script = file.read(2) == b"#!"
        if script != os.access(path, os.X_OK):
            yield f"{name}: " + ("has no run bit" if script else "has a run bit, but is no script")


def check_format(repo):
    """clang-format 14 would change nothing."""
    tool = shutil.which("clang-format-14")
    if tool is None:
        return None
    names = [os.path.join(repo.root, n) for n in repo.code()]
    result = subprocess.run([tool, "--dry-run", "-Werror", "--ferror-limit=1"] + names,
                            capture_output=True, text=True, check=False)
    return [line.replace(repo.root + "/", "") for line in result.stderr.split("\n")
            if " error: " in line]


CHECKS = [check_include_direction, check_cuda_seam, check_file_length, check_function_length,
          check_header_comment, check_leftovers, check_run_bits, check_format]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--root", default=os.path.dirname(os.path.dirname(here)))
    repo = Repository(os.path.abspath(parser.parse_args().root))
    passed = failed = skipped = 0
    for check in CHECKS:
        name = check.__name__[len("check_"):]
        problems = check(repo)
        if problems is None:
            skipped += 1
            print(f"SKIP {name}: its tool is not installed")
            continue
        problems = list(problems)
        print("\n".join(problems + [("FAIL " if problems else "ok   ") + name]))
        failed += bool(problems)
        passed += not problems
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
