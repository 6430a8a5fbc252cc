"""/metrics: names, types, buckets, meaning."""

from harness import Skip, case, check, equal, golden

TTFT = ".001 .005 .01 .02 .04 .06 .08 .1 .25 .5 .75 1 2.5 5 7.5 10 20 40 80 160 640 2560"
PER_TOKEN = ".01 .025 .05 .075 .1 .15 .2 .3 .4 .5 .75 1 2.5 5 7.5 10 20 40 80"
REQUEST = ".3 .5 .8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680"
TOKENS = "1 2 5 10 20 50 100 200 500 1000 2000"
STEP = "1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384"
HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": TTFT,
    "vllm:inter_token_latency_seconds": PER_TOKEN,
    "vllm:time_per_output_token_seconds": PER_TOKEN,
    "vllm:request_max_num_generation_tokens": TOKENS,
    "vllm:request_time_per_output_token_seconds": PER_TOKEN,
    "vllm:e2e_request_latency_seconds": REQUEST,
    "vllm:request_queue_time_seconds": REQUEST,
    "vllm:request_prefill_time_seconds": REQUEST,
    "vllm:request_decode_time_seconds": REQUEST,
    "vllm:request_inference_time_seconds": REQUEST,
    "vllm:request_prompt_tokens": TOKENS,
    "vllm:request_generation_tokens": TOKENS,
    "vllm:iteration_tokens_total": STEP,
    "palu:step_phase_seconds": None,
    "palu:batch_sequences": None,
    "palu:batch_tokens": None,
}
GAUGES = ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
          "vllm:gpu_cache_usage_perc",
          "vllm:cache_config_info", "palu:kv_cache_bytes", "palu:kv_cache_bytes_per_token",
          "palu:kv_cache_bytes_per_token_uncompressed", "palu:kv_cache_compression_ratio",
          "palu:latent_rank", "palu:latent_bits", "palu:kv_cache_capacity_tokens",
          "palu:weights_bytes", "palu:workspace_bytes", "palu:device_memory_bytes",
          "palu:process_resident_bytes"]
COUNTERS = ["vllm:prompt_tokens_total", "vllm:generation_tokens_total",
            "vllm:request_success_total", "vllm:num_preemptions_total",
            "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total",
            "palu:attended_tokens_total", "palu:http_requests_total", "palu:requests_cancelled_total",
            "palu:requests_rejected_total"]


def types_of(server):
    lines = server.get("/metrics").body.decode().splitlines()
    return dict(line.split(" ")[2:4] for line in lines if line.startswith("# TYPE"))


@case("metrics")
def names_and_types(server):
    equal(server.get("/metrics").headers["content-type"],
          "text/plain; version=0.0.4; charset=utf-8")
    types = types_of(server)
    for names, kind in ((GAUGES, "gauge"), (COUNTERS, "counter"), (HISTOGRAMS, "histogram")):
        for name in names:
            equal(types.get(name), kind, name)
    values = server.metrics()
    check(all('model_name="classics-14m"' in key and 'engine="0"' in key for key in values),
          "labels")


@case("metrics")
def buckets(server):
    values = server.metrics()
    for name, expected in HISTOGRAMS.items():
        if expected is None:
            continue
        bounds = [key.split('le="')[1].split('"')[0] for key in values
                  if key.startswith(name + "_bucket")]
        equal(bounds[-1], "+Inf", name)
        equal([float(b) for b in bounds[:-1]], [float(b) for b in expected.split()], name)


@case("metrics")
def counts_follow_requests(server):
    server.completion(prompt="a", max_tokens=1)  # counters appear with their first event
    names = {"prompt": "vllm:prompt_tokens_total", "generated": "vllm:generation_tokens_total",
             "ttft": "vllm:time_to_first_token_seconds_count",
             "e2e": "vllm:e2e_request_latency_seconds_count"}
    before = {key: server.metric(name) for key, name in names.items()}
    length = server.metric("vllm:request_success_total", finished_reason="length")
    calls = server.metric("palu:http_requests_total", route="/v1/completions", code="200")
    item = golden()["cases"][0]
    server.completion(prompt=item["ids"], max_tokens=9, ignore_eos=True)
    after = {key: server.metric(name) for key, name in names.items()}
    equal({key: after[key] - before[key] for key in names},
          {"prompt": len(item["ids"]), "generated": 9, "ttft": 1, "e2e": 1})
    equal(server.metric("vllm:request_success_total", finished_reason="length"), length + 1)
    equal(server.metric("palu:http_requests_total", route="/v1/completions", code="200"),
          calls + 1)


@case("metrics")
def cache_bytes(server):
    equal(server.metric("palu:kv_cache_bytes_per_token_uncompressed"), 6 * 2 * 4 * 64 * 2)
    capacity = server.metric("palu:kv_cache_bytes", kind="capacity")
    per_token = server.metric("palu:kv_cache_bytes_per_token")
    check(capacity <= 64 << 20, "more than asked for")
    equal(server.metric("palu:kv_cache_capacity_tokens"), capacity // per_token)
    rank = server.metric("palu:latent_rank", layer="0", projection="k")
    equal(rank, 256, "a dense layer caches its keys")


@case("metrics")
def labels_are_bounded(server):
    for path in ("/a", "/b", "/v1/models/x", "/v1/models/y"):
        server.get(path)
    routes = {key.split('route="')[1].split('"')[0] for key in server.metrics()
              if key.startswith("palu:http_requests_total")}
    check(routes <= {"/", "/web/*", "/health", "/ready", "/version", "/metrics", "/openapi.json",
                     "/v1/models", "/v1/models/*", "/v1/completions", "/v1/chat/completions",
                     "/v1/embeddings", "/tokenize", "/detokenize", "/debug/engine", "other"} |
          {route for route in routes if route.startswith("/v2/")}, routes)
    check("/a" not in routes and "/v1/models/x" not in routes, routes)


@case("metrics")
def the_prometheus_parser_reads_it(server):
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError:
        raise Skip("prometheus_client is not installed") from None
    families = list(text_string_to_metric_families(server.get("/metrics").body.decode()))
    check(len(families) > 30, "families")
