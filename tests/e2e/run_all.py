#!/usr/bin/env python3
"""End-to-end tests: the real daemon, real sockets, real clients."""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import harness  # noqa: E402
import test_bad_input  # noqa: E402,F401
import test_bench  # noqa: E402,F401
import test_cli  # noqa: E402,F401
import test_clients  # noqa: E402,F401
import test_completions  # noqa: E402,F401
import test_disconnect  # noqa: E402,F401
import test_embeddings  # noqa: E402,F401
import test_grpc  # noqa: E402,F401
import test_http  # noqa: E402,F401
import test_layouts  # noqa: E402,F401
import test_lifecycle  # noqa: E402,F401
import test_load  # noqa: E402,F401
import test_logs  # noqa: E402,F401
import test_metrics  # noqa: E402,F401
import test_open_inference  # noqa: E402,F401
import test_openapi  # noqa: E402,F401
import test_params  # noqa: E402,F401
import test_soak  # noqa: E402,F401
import test_robustness  # noqa: E402,F401
import test_sanitizers  # noqa: E402,F401
import test_security  # noqa: E402,F401
import test_shapes  # noqa: E402,F401
import test_stream  # noqa: E402,F401
import test_tls  # noqa: E402,F401
import test_structured  # noqa: E402,F401


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build-dir")
    parser.add_argument("--server")
    parser.add_argument("--only", default="", help="regular expression over area.name")
    args = parser.parse_args()
    if args.server is None and args.build_dir is None:
        parser.error("--build-dir or --server is needed")
    binary = args.server or os.path.join(args.build_dir, "server", "palu-server")
    harness.use_binary(binary)
    if not os.path.exists(harness.Server.binary):
        print(f"FAIL e2e: {harness.Server.binary} is not there\n0 passed, 1 failed, 0 skipped")
        return 1
    passed, failed, skipped = harness.run_cases(args.only)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
