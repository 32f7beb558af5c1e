"""The same three models from our layers, from KerasHub's (and Keras') layers and from PyTorch's, each as a training step.

TRAINING: {engine: function of the settings -> (function that makes one training step, {"weights": how many, "loss"})}.
"""

from __future__ import annotations

import numpy as np


def data(settings):
    """One batch: ids [B, T] and what is to be predicted, next ids [B, T] or (encoder) start and end [B, 2]."""
    random = np.random.default_rng(0)
    ids = random.integers(1, settings["vocabulary"], (settings["batch"], settings["length"] + 1)).astype("int32")
    if settings["shape"] == "encoder":
        return ids[:, :-1], random.integers(0, settings["length"], (settings["batch"], 2)).astype("int32")
    return ids[:, :-1], ids[:, 1:]


def keras_llm_step(settings):
    import keras

    keras.config.set_dtype_policy(_policy(settings))
    return _keras_step(
        {"gpt": our_gpt, "encoder": our_encoder, "lstm": our_lstm}[settings["shape"]](settings), settings
    )


def keras_hub_step(settings):
    import keras

    keras.config.set_dtype_policy(_policy(settings))
    return _keras_step(
        {"gpt": hub_gpt, "encoder": hub_encoder, "lstm": hub_lstm}[settings["shape"]](settings), settings
    )


def _policy(settings):
    return "float32" if settings["precision"] == "float32" else "mixed_bfloat16"


def _keras_step(model, settings):
    import keras

    x, y = data(settings)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.01), loss, jit_compile=False)
    first = float(model.train_on_batch(x, y))
    return lambda: float(model.train_on_batch(x, y)), {"weights": model.count_params(), "loss": first}


def _our_blocks(x, settings, causal):
    import keras

    from keras_llm.layers.embedding import LearnedPositions
    from keras_llm.layers.transformer import TransformerBlock, normalisation

    x = LearnedPositions(settings["length"], settings["width"])(x)
    for _ in range(settings["layers"]):
        block = TransformerBlock(
            settings["heads"], settings["width"], 4 * settings["width"], norm="layer", causal=causal
        )
        x = block(x)
    assert isinstance(x, keras.KerasTensor)
    return normalisation("layer")(x)


def our_gpt(settings):
    import keras

    from keras_llm.layers.embedding import TokenEmbedding

    class GPT(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding = TokenEmbedding(settings["vocabulary"], settings["width"])
            inputs = keras.Input((None, settings["width"]))
            self.blocks = keras.Model(inputs, _our_blocks(inputs, settings, causal=True))

        def call(self, ids):
            return self.embedding.logits(self.blocks(self.embedding(ids)))

    return GPT()


def our_encoder(settings):
    import keras

    from keras_llm.layers.embedding import TokenEmbedding

    ids = keras.Input((None,), dtype="int32")
    x = TokenEmbedding(settings["vocabulary"], settings["width"])(ids)
    return keras.Model(ids, _span_head(_our_blocks(x, settings, causal=False)))


def our_lstm(settings):
    import keras

    from keras_llm.layers.embedding import TokenEmbedding
    from keras_llm.layers.recurrent import LSTMStack

    ids = keras.Input((None,), dtype="int32")
    x = TokenEmbedding(settings["vocabulary"], settings["embedding"])(ids)
    x = LSTMStack(settings["units"], num_layers=2)(x)
    return keras.Model(ids, _logits(x, settings))


def _span_head(x):
    """[B, T, D] -> start and end logits [B, 2, T]."""
    import keras

    return keras.ops.cast(keras.ops.transpose(keras.layers.Dense(2)(x), (0, 2, 1)), "float32")


def _logits(x, settings):
    import keras

    return keras.ops.cast(keras.layers.Dense(settings["vocabulary"])(x), "float32")


def hub_gpt(settings):
    import keras
    import keras_hub

    ids = keras.Input((None,), dtype="int32")
    embedding = keras_hub.layers.TokenAndPositionEmbedding(
        settings["vocabulary"], settings["length"], settings["width"], tie_weights=True
    )
    x = embedding(ids)
    for _ in range(settings["layers"]):
        block = keras_hub.layers.TransformerDecoder(
            4 * settings["width"], settings["heads"], activation="gelu", normalize_first=True
        )
        x = block(x)
    x = keras.layers.LayerNormalization()(x)
    logits = embedding.token_embedding(x, reverse=True)
    return keras.Model(ids, keras.ops.cast(logits, "float32"))


def hub_encoder(settings):
    import keras
    import keras_hub

    ids = keras.Input((None,), dtype="int32")
    x = keras_hub.layers.TokenAndPositionEmbedding(settings["vocabulary"], settings["length"], settings["width"])(ids)
    for _ in range(settings["layers"]):
        block = keras_hub.layers.TransformerEncoder(
            4 * settings["width"], settings["heads"], activation="gelu", normalize_first=True
        )
        x = block(x)
    return keras.Model(ids, _span_head(keras.layers.LayerNormalization()(x)))


def hub_lstm(settings):
    import keras

    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(settings["vocabulary"], settings["embedding"])(ids)
    for _ in range(2):
        x = keras.layers.LSTM(settings["units"], return_sequences=True)(x)
    return keras.Model(ids, _logits(x, settings))


def torch_step(settings):
    import torch
    from torch import nn

    class Attention(nn.Module):
        def __init__(self, causal):
            super().__init__()
            self.qkv = nn.Linear(settings["width"], 3 * settings["width"])
            self.output = nn.Linear(settings["width"], settings["width"])
            self.causal = causal

        def forward(self, x):
            b, t, width = x.shape
            q, k, v = self.qkv(x).view(b, t, 3 * settings["heads"], -1).transpose(1, 2).chunk(3, dim=1)
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
            return self.output(y.transpose(1, 2).reshape(b, t, width))

    class Block(nn.Module):
        def __init__(self, causal):
            super().__init__()
            width = settings["width"]
            self.attention = nn.Sequential(nn.LayerNorm(width), Attention(causal))
            self.feedforward = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
            )

        def forward(self, x):
            x = x + self.attention(x)
            return x + self.feedforward(x)

    class Transformer(nn.Module):
        def __init__(self, causal):
            super().__init__()
            self.tokens = nn.Embedding(settings["vocabulary"], settings["width"])
            nn.init.normal_(self.tokens.weight, std=settings["width"] ** -0.5)
            self.positions = nn.Embedding(settings["length"], settings["width"])
            self.blocks = nn.Sequential(*[Block(causal) for _ in range(settings["layers"])])
            self.norm = nn.LayerNorm(settings["width"])
            self.span = None if causal else nn.Linear(settings["width"], 2)

        def forward(self, ids):
            x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
            x = self.norm(self.blocks(x))
            return x @ self.tokens.weight.T if self.span is None else self.span(x).transpose(1, 2)

    class LSTM(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(settings["vocabulary"], settings["embedding"])
            self.lstm = nn.LSTM(settings["embedding"], settings["units"], 2, batch_first=True)
            self.head = nn.Linear(settings["units"], settings["vocabulary"])

        def forward(self, ids):
            return self.head(self.lstm(self.tokens(ids))[0])

    model = LSTM() if settings["shape"] == "lstm" else Transformer(causal=settings["shape"] == "gpt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    x, y = (torch.from_numpy(part).long() for part in data(settings))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=settings["precision"] == "bfloat16"):
            logits = model(x)
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    first = step()
    return step, {"weights": sum(p.numel() for p in model.parameters()), "loss": first}


TRAINING = {"keras_llm": keras_llm_step, "keras_hub": keras_hub_step, "torch": torch_step}


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
