"""The same GPT from our layers, from KerasHub and in PyTorch, each continuing a prompt greedily.

DECODING: {engine: function of the settings -> (function that decodes once, {"weights": how many, "ids": the first ones})}.
"""

from __future__ import annotations

import numpy as np


def prompt(settings):
    random = np.random.default_rng(0)
    return random.integers(1, settings["vocabulary"], (settings["batch"], settings["prompt"])).astype("int32")


def keras_llm_decode(settings):
    import keras
    import tensorflow as tf

    from keras_llm.generation.decode import greedy

    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    keras.config.set_dtype_policy(settings["precision"])
    model = our_decoder(settings)
    new = settings["new"]

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)], autograph=False)
    def decode(ids):
        state = model.start(ids[:, :-1], settings["prompt"] + new)
        return greedy(model.step, ids[:, -1], state, end_id=-1, pad_id=0, max_length=new)[0]

    ids = prompt(settings)
    first = decode(ids).numpy()
    return lambda: decode(ids).numpy(), {"weights": model.count_params(), "ids": first[0, :8].tolist()}


def our_decoder(settings):
    """The GPT of `our_gpt` with a cache: `start` reads the prompt but its last token, `step` continues."""
    import keras
    from keras import ops

    from keras_llm.layers.embedding import LearnedPositions, TokenEmbedding
    from keras_llm.layers.transformer import TransformerBlock, normalisation

    width = settings["width"]

    class Decoder(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding = TokenEmbedding(settings["vocabulary"], width)
            self.positions = LearnedPositions(settings["length"], width)
            self.blocks = [
                TransformerBlock(settings["heads"], width, 4 * width, norm="layer", causal=True)
                for _ in range(settings["layers"])
            ]
            self.norm = normalisation("layer")

        def call(self, ids):
            x = self.positions(self.embedding(ids))
            for block in self.blocks:
                x = block(x)
            return self.embedding.logits(self.norm(x))

        def read(self, ids, caches, position):
            x = self.positions(self.embedding(ids), position + ops.arange(ops.shape(ids)[1]))
            after = []
            for block, cache in zip(self.blocks, caches, strict=True):
                x, cache = block(x, cache=cache, position=position)
                after.append(cache)
            return x, tuple(after)

        def start(self, ids, length):
            caches = tuple(block.new_cache(ids, length) for block in self.blocks)
            _, caches = self.read(ids, caches, 0)
            return {"caches": caches, "position": ops.shape(ids)[1]}

        def step(self, ids, state):
            x, caches = self.read(ops.expand_dims(ids, 1), state["caches"], state["position"])
            logits = self.embedding.logits(self.norm(x))[:, 0]
            return logits, {"caches": caches, "position": state["position"] + 1}

    model = Decoder()
    model(ops.zeros((1, 2), "int32"))
    return model


def keras_hub_decode(settings):
    import keras
    import keras_hub
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    keras.config.set_dtype_policy(settings["precision"])
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=settings["vocabulary"],
        num_layers=settings["layers"],
        num_heads=settings["heads"],
        hidden_dim=settings["width"],
        intermediate_dim=4 * settings["width"],
        max_sequence_length=settings["length"],
        dropout=0.0,
    )
    model = keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)
    model.compile(sampler="greedy", jit_compile=False)
    total = settings["prompt"] + settings["new"]
    ids = np.zeros((settings["batch"], total), "int32")
    ids[:, : settings["prompt"]] = prompt(settings)
    mask = np.zeros_like(ids)
    mask[:, : settings["prompt"]] = 1
    inputs = {"token_ids": ids, "padding_mask": mask}

    def decode():
        return model.generate(inputs, stop_token_ids=None)["token_ids"]

    first = np.asarray(decode())
    return decode, {"weights": model.count_params(), "ids": first[0, settings["prompt"] :][:8].tolist()}


def torch_decode(settings):
    import torch
    from torch import nn

    width, heads = settings["width"], settings["heads"]
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
            self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x, cache, position):
            b, t, _ = x.shape
            qkv = self.qkv(self.norms[0](x)).view(b, t, 3 * heads, -1).transpose(1, 2)
            q, k, v = qkv.chunk(3, dim=1)
            end = position + t
            cache[0][:, :, position:end], cache[1][:, :, position:end] = k, v
            y = nn.functional.scaled_dot_product_attention(
                q, cache[0][:, :, :end], cache[1][:, :, :end], is_causal=t > 1
            )
            x = x + self.output(y.transpose(1, 2).reshape(b, t, width))
            return x + self.outer(nn.functional.gelu(self.inner(self.norms[1](x))))

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(settings["vocabulary"], width)
            self.positions = nn.Embedding(settings["length"], width)
            self.blocks = nn.ModuleList([Block() for _ in range(settings["layers"])])
            self.norm = nn.LayerNorm(width)

        def forward(self, ids, caches, position):
            x = self.tokens(ids) + self.positions(torch.arange(position, position + ids.shape[1]))
            for block, cache in zip(self.blocks, caches, strict=True):
                x = block(x, cache, position)
            return self.norm(x[:, -1]) @ self.tokens.weight.T

    dtype = torch.bfloat16 if settings["precision"] == "bfloat16" else torch.float32
    model = Decoder().to(dtype).eval()
    given = torch.from_numpy(prompt(settings)).long()
    total = settings["prompt"] + settings["new"]
    shape = (settings["layers"], 2, settings["batch"], heads, total, width // heads)

    @torch.inference_mode()
    def decode():
        caches, found = torch.zeros(shape, dtype=dtype), []
        ids = model(given, caches, 0).argmax(-1, keepdim=True)
        for position in range(settings["prompt"], total):
            found.append(ids)
            if position < total - 1:
                ids = model(ids, caches, position).argmax(-1, keepdim=True)
        return torch.cat(found, 1).numpy()

    first = decode()
    return decode, {"weights": sum(p.numel() for p in model.parameters()), "ids": first[0, :8].tolist()}


DECODING = {"keras_llm": keras_llm_decode, "keras_hub": keras_hub_decode, "torch": torch_decode}
