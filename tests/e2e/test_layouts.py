"""Checkpoints in the Palu authors' layout: latents are what is cached, and the metrics say so."""

import json
import os

from harness import ROOT, Server, Skip, case, equal

FIXTURES = os.environ.get("PALU_FIXTURES", os.path.join(ROOT, "..", "shared", "fixtures"))
OFFICIAL = os.path.join(FIXTURES, "models", "classics-14m-palu-official")
GOLDEN = os.path.join(FIXTURES, "golden", "classics-14m-palu-official.json")
LAYERS, GROUPS, RANK = 6, 2, 64


def serve(args=()):
    if not os.path.isdir(OFFICIAL):
        raise Skip(f"{OFFICIAL} is not on this machine")
    return Server(model=OFFICIAL, args=args)


@case("layouts", own_server=True)
def official_checkpoint_continues_as_its_golden():
    server = serve(["--cache.format=f32"])
    try:
        with open(GOLDEN, encoding="utf-8") as file:
            item = json.load(file)["cases"][0]
        answer = server.completion(prompt=item["ids"], max_tokens=len(item["greedy"]),
                                   temperature=0, ignore_eos=True)
        equal(answer["choices"][0]["text"], item["greedy_text"])
        server.stop()
    finally:
        server.kill()


@case("layouts", own_server=True)
def official_checkpoint_caches_its_latents_only():
    server = serve()
    try:
        numbers = LAYERS * 2 * GROUPS * RANK
        equal(server.metric("palu:kv_cache_bytes_per_token"), 2 * numbers)
        equal(server.metric("palu:kv_cache_bytes_per_token_uncompressed"), 6144)
        equal(server.metric("palu:latent_rank", layer="0", projection="k"), GROUPS * RANK)
        server.completion(prompt=list(range(4, 4 + 40)), max_tokens=1)
        server.wait_idle()
        # 40 tokens fill two blocks of 16, which stay for reuse.
        equal(server.metric("palu:kv_cache_bytes", kind="cached"), 32 * 2 * numbers)
        server.stop()
    finally:
        server.kill()


@case("layouts", own_server=True)
def official_checkpoint_at_four_bits():
    server = serve(["--cache.format=int4"])
    try:
        codes_and_scales = LAYERS * 2 * GROUPS * (RANK // 2 + 4)
        equal(server.metric("palu:kv_cache_bytes_per_token"), codes_and_scales)
        equal(server.metric("palu:latent_bits", layer="5", projection="v"), 4)
        server.completion(prompt="Once upon a time", max_tokens=8)
        server.stop()
    finally:
        server.kill()


@case("layouts", own_server=True)
def official_checkpoint_in_fp8():
    server = serve(["--cache.format=fp8_e4m3"])
    try:
        equal(server.metric("palu:kv_cache_bytes_per_token"), LAYERS * 2 * GROUPS * RANK)
        equal(server.metric("palu:latent_bits", layer="0", projection="k"), 8)
        equal(server.metric("vllm:cache_config_info", cache_dtype="fp8"), 1)
        server.completion(prompt="Once upon a time", max_tokens=8)
        server.stop()
    finally:
        server.kill()
