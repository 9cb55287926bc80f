"""Writes a random adapter (LoRA) of a few kilobytes for the model of tiny_model.py.

usage: tiny_adapter.py FOLDER SEED
"""

import itertools
import json
import pathlib
import sys

import numpy
from safetensors.numpy import save_file

from tiny_model import HEAD, HIDDEN, LAYERS

RANK = 8
TARGETS = {"q_proj": HIDDEN, "v_proj": HEAD}


def weights(seed):
    random = numpy.random.default_rng(seed)
    for layer, (target, width) in itertools.product(range(LAYERS), TARGETS.items()):
        for half, shape in {"lora_A": (RANK, HIDDEN), "lora_B": (width, RANK)}.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{target}.{half}.weight"
            yield name, (random.standard_normal(shape) / 4).astype(numpy.float32)


def main(folder, seed):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(weights(seed)), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny", "r": RANK,
        "lora_alpha": 2 * RANK, "lora_dropout": 0.0, "bias": "none", "target_modules": list(TARGETS)}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
