"""The reading models: shapes, padding, what they can learn, half precision."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.models.encoder_reader import EncoderReader, joined
from keras_llm.models.lstm_reader import LSTMReader
from keras_llm.models.transformer_reader import ConvolutionBlock, TransformerReader

V = 30
CONFIG = ModelConfig(embedding_dim=8, hidden_dim=6, num_layers=1, num_heads=2, feedforward_dim=16, dropout=0.1)
READERS = [LSTMReader, TransformerReader, EncoderReader]
# What is made of layers that are tested on JAX by themselves; there every operation is compiled anew.
not_on_jax = pytest.mark.skipif(keras.backend.backend() == "jax", reason="compiles for minutes")
RNG = np.random.default_rng(0)


def inputs(batch=3, question=4, context=7):
    """Rows of different lengths: each next one a token shorter in question and context."""
    q = RNG.integers(2, V, (batch, question)).astype("int32")
    c = RNG.integers(2, V, (batch, context)).astype("int32")
    for row in range(batch):
        q[row, question - row :] = 0
        c[row, context - row :] = 0
    return {"question_ids": q, "context_ids": c}


def build(cls, dtype=None, seed=0, **changes):
    keras.utils.set_random_seed(seed)
    model = cls(V, dataclasses.replace(CONFIG, **changes), dtype=dtype)
    model.build()
    # XLA compiles long for one small batch; the jax backend knows nothing else.
    jit_compile = keras.backend.backend() == "jax"
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, jit_compile=jit_compile)
    return model


# Models that tests only read are compiled once.
shared = functools.cache(build)


@pytest.fixture(params=READERS, ids=lambda cls: cls.__name__)
def cls(request):
    return request.param


def test_padding_and_neighbours_change_nothing(cls):
    model, x = shared(cls), inputs()
    logits = model.predict_on_batch(x)
    assert logits.shape == (3, 2, 8) and logits.dtype == np.float32
    real = np.broadcast_to(np.pad(x["context_ids"] > 0, ((0, 0), (1, 0)), constant_values=True)[:, None], logits.shape)
    assert (logits[~real] == -1e9).all() and (np.abs(logits[real]) < 100).all()
    padded = {
        "question_ids": np.pad(x["question_ids"][1:], ((0, 0), (0, 3))),
        "context_ids": np.pad(x["context_ids"][1:], ((0, 0), (0, 5))),
    }
    longer = model.predict_on_batch(padded)
    np.testing.assert_allclose(longer[:, :, :8], logits[1:], rtol=1e-4, atol=1e-4)
    assert (longer[:, :, 8:] == -1e9).all()


def test_texts_without_tokens_give_finite_logits(cls):
    logits = shared(cls).predict_on_batch({name: np.zeros_like(ids) for name, ids in inputs().items()})
    assert np.isfinite(logits).all()
    assert (logits[:, :, 1:] == -1e9).all() and (np.abs(logits[:, :, 0]) < 100).all()


def test_learns_a_batch_by_heart(cls):
    model, x = build(cls, embedding_dim=16, hidden_dim=12, dropout=0.0), inputs(4, 5, 9)
    spans = np.array([[2, 4], [0, 0], [7, 7], [1, 6]])  # the second has no answer
    for _ in range(60):
        loss = model.train_on_batch(x, spans)
    assert float(loss) < 0.1
    np.testing.assert_array_equal(model.predict_on_batch(x).argmax(axis=-1), spans)


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_mixed_precision_is_near_float32(cls, half):
    x, full, mixed = inputs(), shared(cls), build(cls, dtype=f"mixed_{half}")
    mixed.set_weights(full.get_weights())
    assert all(w.dtype == "float32" for w in mixed.weights)
    assert mixed.encoder[1].compute_dtype == half if cls is TransformerReader else mixed.encoder.compute_dtype == half
    near, logits = full.predict_on_batch(x), mixed.predict_on_batch(x)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, near, atol=0.15, rtol=0.05)
    assert not np.array_equal(logits, near)


@not_on_jax
def test_dropout_only_while_training(cls):
    x = {name: ops.convert_to_tensor(value) for name, value in inputs().items()}
    model = shared(cls)
    still = [model.predict_on_batch(x) for _ in range(2)]
    np.testing.assert_array_equal(*still)
    assert not np.allclose(ops.convert_to_numpy(model(x, training=True)), still[0], atol=1e-4)


def test_attention_of_the_first_example(cls):
    x = inputs()
    x["question_ids"][0, 2:] = 0
    found = shared(cls).attention(x)
    assert found["axes"] == ("context_ids", "question_ids") and found["weights"].shape == (7, 4)
    looked = found["weights"].sum(axis=-1)
    if cls is EncoderReader:  # context looks at context, too
        assert (looked < 0.9).all()
    else:
        np.testing.assert_allclose(looked, 1.0, rtol=1e-5)
    assert (found["weights"][:, 2:] == 0).all() and (found["weights"][:, :2] > 0).all()


def test_weights_survive_saving(cls, tmp_path):
    x, model = inputs(), shared(cls)
    model.save_weights(tmp_path / "model.weights.h5")
    again = build(cls, seed=2)
    again.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(again.predict_on_batch(x), model.predict_on_batch(x))


@not_on_jax
def test_more_layers(cls):
    model = build(cls, num_layers=3)
    logits = model.predict_on_batch(inputs(2))
    assert logits.shape == (2, 2, 8) and np.isfinite(logits).all()
    layers = model.encoder.blocks if cls is EncoderReader else model.second_reading
    assert len(layers) == (2 if cls is TransformerReader else 3)


def test_encoder_reads_question_and_context_as_one_text():
    found = joined(np.array([[2, 7, 3, 0], [2, 8, 9, 3]]), np.array([[5, 6, 0], [6, 5, 4]]))
    assert ops.convert_to_numpy(found["token_ids"]).tolist() == [[2, 7, 3, 0, 5, 6, 0, 3], [2, 8, 9, 3, 6, 5, 4, 3]]
    assert ops.convert_to_numpy(found["segment_ids"]).tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] * 2
    model = shared(EncoderReader)
    apart = model({"question_ids": np.array([[2, 7, 3, 0, 0]]), "context_ids": np.array([[5, 6]])})
    # The same text without any padding in it, through the encoder by itself.
    x = model.encoder({"token_ids": np.array([[2, 7, 3, 5, 6, 3]])})
    scores = ops.convert_to_numpy(model.head(x))[0]
    np.testing.assert_allclose(ops.convert_to_numpy(apart)[0].T, scores[[0, 3, 4]], atol=1e-5)


@not_on_jax
@pytest.mark.parametrize(
    "changes",
    [
        {"positions": "learned", "norm": "layer", "activation": "relu"},
        {"positions": "sinusoidal", "norm_first": False},
        {"positions": "rotary", "num_kv_heads": 1, "activation": "swiglu", "head_dim": 6, "qk_norm": True},
    ],
    ids=lambda changes: changes["positions"],
)
def test_transformer_settings_tell_the_order_of_tokens(changes):
    model, x = build(TransformerReader, **changes), inputs(1, 2, 24)
    swapped = {**x, "context_ids": x["context_ids"].copy()}
    swapped["context_ids"][0, [1, 2]] = x["context_ids"][0, [2, 1]]
    logits = model.predict_on_batch(x)
    assert logits.shape == (1, 2, 25) and np.isfinite(logits).all()
    attention = model.encoder[1].self_attention
    assert (attention.head_dim, attention.qk_norm) == (changes.get("head_dim", 4), "qk_norm" in changes)
    # Token 23 is out of reach of the convolutions: only attention can tell it.
    assert abs(logits[0, :, 24] - model.predict_on_batch(swapped)[0, :, 24]).max() > 1e-6


def test_convolution_block_equals_its_formula():
    block = ConvolutionBlock(3, kernel_size=3, norm="layer")
    x, mask = RNG.normal(size=(1, 4, 3)).astype("float32"), np.array([[True, True, True, False]])
    y = ops.convert_to_numpy(block(x, mask))
    kernel, bias = block.convolution.get_weights()
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    entered = np.pad((x - mean) / np.sqrt(variance + 1e-5) * mask[..., None], ((0, 0), (1, 1), (0, 0)))
    twin = np.stack([np.einsum("kd,kde->e", entered[0, t : t + 3], kernel) + bias for t in range(4)])
    np.testing.assert_allclose(y[0], x[0] + np.maximum(twin, 0), rtol=1e-4, atol=1e-5)
    assert ConvolutionBlock.from_config(block.get_config()).get_config() == block.get_config()
