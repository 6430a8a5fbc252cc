#!/bin/sh
# Fetches a checkpoint into /models/model, once: what is whole there stays.
#   MODEL_URL    folder with config.json, e.g. https://huggingface.co/ORG/MODEL/resolve/main
#   MODEL_TOKEN  bearer token, if the folder wants one
#   MODEL_DIR    default /models/model
set -eu
dir="${MODEL_DIR:-/models/model}"
if [ -f "$dir/.complete" ] && [ "$(cat "$dir/.complete")" = "$MODEL_URL" ]; then
  echo "$dir has $MODEL_URL"
  exit 0
fi
rm -f "$dir/.complete"
mkdir -p "$dir"

# The token goes through a file of curl's, so that no process list shows it.
auth="$(mktemp)"
trap 'rm -f "$auth"' EXIT
if [ -n "${MODEL_TOKEN:-}" ]; then printf 'header = "Authorization: Bearer %s"\n' "$MODEL_TOKEN" >"$auth"; fi

fetch() {
  curl -fsSL --config "$auth" --retry 5 --retry-all-errors --retry-delay 2 -C - \
    -o "$dir/$1.part" "$MODEL_URL/$1" && mv "$dir/$1.part" "$dir/$1"
}
# Files that only some checkpoints have; any answer but 404 must succeed.
fetch_if_there() {
  code="$(curl -sSL --config "$auth" --retry 5 -o /dev/null -w '%{http_code}' -I "$MODEL_URL/$1")"
  if [ "$code" = 404 ]; then return 0; fi
  fetch "$1"
}

fetch config.json
for name in generation_config.json palu_config.json tokenizer.json tokenizer.model \
  tokenizer_config.json special_tokens_map.json chat_template.jinja model.safetensors.index.json; do
  fetch_if_there "$name"
done
if [ -f "$dir/model.safetensors.index.json" ]; then
  grep -o '"[^"/]*\.safetensors"' "$dir/model.safetensors.index.json" | tr -d '"' | sort -u |
    while read -r shard; do fetch "$shard"; done
else
  fetch model.safetensors
fi
echo "$MODEL_URL" >"$dir/.complete"
echo "fetched $MODEL_URL"
