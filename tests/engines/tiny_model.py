"""Writes a random Llama of half a megabyte with a tokenizer of its own; the same bytes every time.

Half a megabyte computes real attention over a real KV cache in milliseconds on one core. Its words
mean nothing, but the same prompt gives the same words.

usage: tiny_model.py FOLDER
"""

import itertools
import json
import pathlib
import sys

import numpy
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HIDDEN, LAYERS, HEADS, VOCABULARY, LENGTH = 64, 2, 2, 512, 4096
HEAD = HIDDEN // HEADS
SPECIAL = ["<|end|>", "<|turn|>", "<|over|>"]
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "ing")]
# As those of common models: a system message made of tools, turns with their speaker, an opening for the answer.
TEMPLATE = (
    "{%- if tools %}<|turn|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|over|>\n{% endif -%}"
    "{%- for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] | trim }}"
    "{%- for call in message.tool_calls or [] %}\n{{ call.function | tojson }}{% endfor %}<|over|>\n{% endfor -%}"
    "{%- if add_generation_prompt %}<|turn|>assistant\n{% endif -%}"
)


def sentences():
    """Made-up words in a fixed disorder, of no library's making: 1 follows 0 for good."""
    state = 1
    for _ in range(3000):
        words = []
        for _ in range(8):
            picked = []
            for _ in range(2):
                state = state * 48271 % 0x7FFFFFFF
                picked.append(SYLLABLES[state % len(SYLLABLES)])
            words.append("".join(picked))
        yield " ".join(words).capitalize() + "."


def tokenizer():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(sentences(), trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return made


def weights():
    random = numpy.random.default_rng(0)
    scaled = lambda *shape: (random.standard_normal(shape) / shape[-1] ** 0.5).astype(numpy.float32)
    ones = lambda: numpy.ones(HIDDEN, numpy.float32)
    yield "model.embed_tokens.weight", random.standard_normal((VOCABULARY, HIDDEN)).astype(numpy.float32)
    yield "lm_head.weight", scaled(VOCABULARY, HIDDEN)
    yield "model.norm.weight", ones()
    shapes = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (HEAD, HIDDEN),
              "self_attn.v_proj": (HEAD, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
              "mlp.gate_proj": (2 * HIDDEN, HIDDEN), "mlp.up_proj": (2 * HIDDEN, HIDDEN),
              "mlp.down_proj": (HIDDEN, 2 * HIDDEN)}
    for layer, (name, shape) in itertools.product(range(LAYERS), shapes.items()):
        yield f"model.layers.{layer}.{name}.weight", scaled(*shape)
    for layer, name in itertools.product(range(LAYERS), ("input_layernorm", "post_attention_layernorm")):
        yield f"model.layers.{layer}.{name}.weight", ones()


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save(str(folder / "tokenizer.json"))
    save_file(dict(weights()), folder / "model.safetensors", metadata={"format": "pt"})
    write = lambda name, value: (folder / name).write_text(json.dumps(value, indent=1))
    write("tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[2], "pad_token": SPECIAL[0],
        "model_max_length": LENGTH, "clean_up_tokenization_spaces": False, "chat_template": TEMPLATE})
    write("config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": 1, "head_dim": HEAD, "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
        "torch_dtype": "float32", "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0})


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
