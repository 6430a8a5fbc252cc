#!/usr/bin/env python3
"""Every lint rule flags a text that breaks it and accepts one that does not."""
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import lint  # pylint: disable=wrong-import-position


def function(lines, head="int F(int x) {"):
    return head + "\n" + "  x += 1;\n" * (lines - 2) + "}\n"


class LintTest(unittest.TestCase):
    def problems(self, check, files, executable=()):
        """What check says of a tree that holds files (path to text)."""
        with tempfile.TemporaryDirectory() as root:
            for name, text in files.items():
                path = os.path.join(root, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text)
                os.chmod(path, 0o755 if name in executable else 0o644)
            return list(check(lint.Repository(root)))

    def assert_flags(self, check, name, text, **others):
        self.assertEqual(len(self.problems(check, {name: text, **others})), 1, text[:200])

    def test_include_direction(self):
        headers = {h: "" for h in ("engine/a.h", "server/b.h", "server/text/c.h", "kernels/d.h",
                                   "config/engine_config.h", "config/e.h", "tools/f.h")}
        bad = {"engine/x.cc": "server/b.h", "engine/y.cc": "config/e.h", "kernels/x.cc": "engine/a.h",
               "config/x.cc": "engine/a.h", "server/text/x.cc": "server/b.h",
               "tools/x.cc": "server/b.h", "server/x.cc": "tools/f.h", "server/y.cc": "kernels/d.h"}
        good = {"engine/x.cc": "config/engine_config.h", "server/x.cc": "server/text/c.h",
                "tools/x.cc": "server/text/c.h", "tests/x.cc": "tools/f.h"}
        for name, target in bad.items():
            files = {**headers, name: f'#include "{target}"\n'}
            self.assertEqual(len(self.problems(lint.check_include_direction, files)), 1, name)
        for name, target in good.items():
            files = {**headers, name: f'#include "{target}"\n'}
            self.assertEqual(self.problems(lint.check_include_direction, files), [], name)
        for name, target in {"engine/x.cc": "spdlog/spdlog.h", "kernels/cpu/x.cc": "cuda_runtime.h",
                             "tools/x.cc": "boost/asio.hpp", "server/x.cc": "yaml-cpp/yaml.h",
                             "engine/y.cc": "grpcpp/grpcpp.h"}.items():
            self.assert_flags(lint.check_include_direction, name, f"#include <{target}>\n")
        self.assert_flags(lint.check_include_direction, "engine/x.cc", '#include "missing.h"\n')

    def test_cuda_seam(self):
        self.assert_flags(lint.check_cuda_seam, "engine/x.cc", "#ifdef PALU_WITH_CUDA\n#endif\n")
        self.assert_flags(lint.check_cuda_seam, "engine/x.cu", "")
        self.assert_flags(lint.check_cuda_seam, "kernels/x.cc", '#include "kernels/cuda/b.h"\n')
        self.assertEqual(self.problems(lint.check_cuda_seam, {
            "kernels/backend.cc": "#ifdef PALU_WITH_CUDA\n#endif\n", "kernels/cuda/x.cu": ""}), [])

    def test_file_length(self):
        self.assert_flags(lint.check_file_length, "engine/x.cc", "\n" * 501)
        self.assertEqual(self.problems(lint.check_file_length, {"engine/x.cc": "\n" * 500}), [])

    def test_function_length(self):
        heads = ["int F(int x) {", "void C::F(int x) const override {", "TEST(A, B) {",
                 "template <typename T>\nT F(T x) {", "auto F(int x) -> int {",
                 "C::C(int x) : a_(x), b_{x} {", "C::C()\n    : a_{1},\n      b_(2) {",
                 "struct S F(struct T x) {", "const auto f = [](int x) {"]
        for head in heads:
            for wrap in ("{}", "namespace palu {{\nclass C {{\n {}\n}};\n}}\n", "struct T {{\n{} }};"):
                long = wrap.format(function(70, head))
                self.assertEqual(len(self.problems(lint.check_function_length,
                                                   {"engine/x.cc": long})), 1, long[:160])
                short = wrap.format(function(50, head))
                self.assertEqual(self.problems(lint.check_function_length,
                                               {"engine/x.cc": short}), [], short[:160])
        nested = "int F() {\n" + "  if (x) { g([&] { h(); }); }\n" * 60 + "}\n"
        self.assert_flags(lint.check_function_length, "engine/x.cc", nested)
        device = function(100, "__global__ void K(int x) {")
        self.assertEqual(self.problems(lint.check_function_length, {"kernels/cuda/x.cu": device}), [])
        self.assert_flags(lint.check_function_length, "kernels/cuda/x.cu",
                          function(121, "__device__ void K(int x) {"))

    def test_function_length_sees_through_text(self):
        table = "const int kTable[] = {\n" + "  1,\n" * 100 + "};\n"
        big_class = "class C {\n" + "  int F() { return 1; }\n" * 100 + "};\n"
        text = 'const char* kText = R"(\n' + "{ ( \n" * 100 + ')";\n'
        odd = "int F() { return '{' + \"}{\"[0]; }  // {\n" * 100
        macro = "#define M(x) { \\\n  (x\n" + function(50)
        for name, code in {"table": table, "class": big_class, "raw": text, "odd": odd,
                           "macro": macro}.items():
            self.assertEqual(self.problems(lint.check_function_length, {"engine/x.cc": code}), [],
                             name)

    def test_header_comment(self):
        good = "// What it is.\n#pragma once\n"
        self.assertEqual(self.problems(lint.check_header_comment, {"engine/x.h": good}), [])
        self.assert_flags(lint.check_header_comment, "engine/x.h", "#pragma once\n")
        self.assert_flags(lint.check_header_comment, "engine/x.h", "// What it is.\n")

    def test_leftovers(self):
        for text in ("// TO" + "DO: later\n", "int x;  // FIX" + "ME\n", "\tint x;\n", "int x; \n"):
            self.assert_flags(lint.check_leftovers, "engine/x.cc", text)
        self.assertEqual(self.problems(lint.check_leftovers, {"engine/x.cc": "int todo_list;\n"}), [])

    def test_run_bits(self):
        script = "#!/bin/sh\n"
        self.assert_flags(lint.check_run_bits, "deploy/x", script)
        self.assertEqual(self.problems(lint.check_run_bits, {"deploy/x": script},
                                       executable=("deploy/x",)), [])
        self.assertEqual(len(self.problems(lint.check_run_bits, {"README.md": "x"},
                                           executable=("README.md",))), 1)

    def test_format(self):
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(os.path.join(root, "engine"))
            with open(os.path.join(root, "engine/x.cc"), "w", encoding="utf-8") as file:
                file.write("int   main( ) {return 0;}\n")
            problems = lint.check_format(lint.Repository(root))
        if problems is None:
            self.skipTest("clang-format-14 is not installed")
        self.assertEqual(len(problems), 1)


if __name__ == "__main__":
    result = unittest.TextTestRunner(stream=sys.stdout).run(
        unittest.defaultTestLoader.loadTestsFromTestCase(LintTest))
    bad = len(result.failures) + len(result.errors)
    skips = len(result.skipped)
    print(f"{result.testsRun - bad - skips} passed, {bad} failed, {skips} skipped")
    sys.exit(1 if bad else 0)
