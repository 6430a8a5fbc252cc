#!/usr/bin/env python3
"""An MHA checkpoint with the function of a GQA one: every KV head repeated for each query head.

    python3 tests/golden/make_mha_checkpoint.py models/classics-14m OUT
"""

import json
import pathlib
import shutil
import struct
import sys


def main(source, out):
    source, out = pathlib.Path(source), pathlib.Path(out)
    out.mkdir(parents=True)
    for file in source.glob("*.json"):
        shutil.copyfile(file, out / file.name)
    config = json.loads((source / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    config["num_key_value_heads"] = heads
    (out / "config.json").write_text(json.dumps(config, indent=2))
    raw = (source / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header, data, offset = json.loads(raw[8 : 8 + size]), [], 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        bytes_ = raw[8 + size + begin : 8 + size + end]
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            head = len(bytes_) // kv_heads
            parts = [bytes_[i * head : (i + 1) * head] for i in range(kv_heads)]
            bytes_ = b"".join(part * (heads // kv_heads) for part in parts)
            entry["shape"][0] *= heads // kv_heads
        entry["data_offsets"] = [offset, offset + len(bytes_)]
        offset += len(bytes_)
        data.append(bytes_)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(out / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(data)


if __name__ == "__main__":
    main(*sys.argv[1:])
