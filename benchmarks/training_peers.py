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
