"""The two closed-book models: cached steps equal the whole, padding changes nothing, and they learn."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.generation.decode import greedy
from keras_llm.models.lstm_encoder_decoder import LSTMEncoderDecoder
from keras_llm.models.transformer_encoder_decoder import TransformerEncoderDecoder

V, PAD, START, END = 23, 0, 2, 3
LENGTH = 5
TINY = {"embedding_dim": 8, "hidden_dim": 6, "num_layers": 2, "num_heads": 2, "feedforward_dim": 12, "dropout": 0.0}
MODELS = {
    "lstm additive": (LSTMEncoderDecoder, {}),
    "lstm dot": (LSTMEncoderDecoder, {"attention": "dot"}),
    "lstm copying": (LSTMEncoderDecoder, {"attention": "dot", "copy": True}),
    "transformer copying": (TransformerEncoderDecoder, {"copy": True}),
    "transformer rotary": (TransformerEncoderDecoder, {"num_kv_heads": 1, "activation": "swiglu"}),
    "transformer 2017": (
        TransformerEncoderDecoder,
        {"positions": "sinusoidal", "norm": "layer", "norm_first": False, "activation": "relu"},
    ),
    "transformer learned": (TransformerEncoderDecoder, {"positions": "learned", "norm": "layer"}),
    "transformer relative": (
        TransformerEncoderDecoder,
        {
            "positions": "relative",
            "relative_buckets": 4,
            "relative_distance": 3,
            "num_decoder_layers": 1,
            "activation": "geglu_tanh",
            "tied": False,
            "scale_attention": False,
        },
    ),
}
ON_JAX = keras.backend.backend() == "jax"


def array(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


class Compiled:
    """A model with its graphs, as a user would run them; made once for all tests, which do not change its weights."""

    def __init__(self, name, policy=None):
        keras.utils.set_random_seed(0)
        kind, settings = MODELS[name]
        self.model = model = kind(V, ModelConfig(**{**TINY, **settings}), dtype=policy)
        model.build({"source_ids": (None, None), "target_ids": (None, None)})
        # Larger weights than the initial ones: tokens then differ clearly, and no test passes because all is nearly zero.
        random = np.random.default_rng(1)
        model.set_weights([w + 0.3 * random.normal(size=w.shape).astype("float32") for w in model.get_weights()])

        def decode(source_ids):
            start = ops.full((ops.shape(source_ids)[0],), START, "int32")
            return greedy(model.step, start, model.start(source_ids, LENGTH), END, PAD, LENGTH)

        if ON_JAX:
            import jax

            self.call, self.step, self.decode = jax.jit(model), jax.jit(model.step), jax.jit(decode)
            self.start = jax.jit(lambda ids: model.start(ids, LENGTH))
        else:
            import tensorflow as tf

            def graph(function, *signature):
                return tf.function(function, input_signature=signature or None, autograph=False, reduce_retracing=True)

            ids = tf.TensorSpec([None, None], tf.int32)
            self.call = graph(lambda inputs: model(inputs), {"source_ids": ids, "target_ids": ids})
            self.step, self.decode = graph(model.step), graph(decode, ids)
            self.start = graph(lambda ids: model.start(ids, LENGTH), ids)


compiled = functools.cache(Compiled)


def batch(rows=3, source=6, target=5, seed=0):
    random = np.random.default_rng(seed)
    source_ids = random.integers(4, V, (rows, source)).astype("int32")
    target_ids = random.integers(4, V, (rows, target)).astype("int32")
    target_ids[:, 0] = START
    source_ids[1, 4:] = PAD
    target_ids[2, 3:] = PAD
    return {"source_ids": ops.array(source_ids), "target_ids": ops.array(target_ids)}


every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_logits_are_float32_and_causal(name):
    call, inputs = compiled(name).call, batch()
    found = call(inputs)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    logits = array(found)
    assert logits.shape == (3, 5, V)
    changed = ops.convert_to_numpy(inputs["target_ids"]).copy()
    changed[:, 3] = 5 + (changed[:, 3] == 5)
    after = array(call({**inputs, "target_ids": ops.array(changed)}))
    np.testing.assert_allclose(after[:, :3], logits[:, :3], atol=1e-5)
    assert (np.abs(after[:, 3] - logits[:, 3]).max(-1) > 1e-3).all()


@every_model
def test_steps_with_a_cache_equal_the_whole(name):
    graphs, inputs = compiled(name), batch()
    whole = array(graphs.call(inputs))
    state = graphs.start(inputs["source_ids"])
    for t in range(5):
        logits, state = graphs.step(inputs["target_ids"][:, t], state)
        np.testing.assert_allclose(array(logits), whole[:, t], atol=1e-4)


@every_model
def test_more_padding_changes_no_value(name):
    call, inputs = compiled(name).call, batch()
    padded = {key: ops.pad(ids, ((0, 0), (0, 3))) for key, ids in inputs.items()}
    np.testing.assert_allclose(array(call(padded))[:, :5], array(call(inputs)), atol=1e-5)


@every_model
def test_greedy_equals_running_the_whole_model_again_for_every_token(name):
    graphs, source = compiled(name), batch()["source_ids"]
    ids, log_probs = graphs.decode(source)
    # Causal: what stands after the last token is not seen, so the targets may keep one length.
    targets = np.full((3, LENGTH), 5, "int32")
    targets[:, 0] = START
    expected, scores = np.zeros((3, LENGTH), int), np.zeros((3, LENGTH))
    ended = np.zeros(3, bool)
    for t in range(LENGTH):
        logits = array(graphs.call({"source_ids": source, "target_ids": ops.array(targets)}))[:, t].astype("float64")
        chosen = logits.argmax(-1)
        probability = logits.max(-1) - np.log(np.exp(logits).sum(-1))
        scores[:, t] = np.where(ended, 0, probability)
        ended |= chosen == END
        expected[:, t] = np.where(ended, PAD, chosen)
        targets[:, t + 1 : t + 2] = np.where(ended, 5, chosen)[:, None]
    np.testing.assert_array_equal(ops.convert_to_numpy(ids), expected)
    np.testing.assert_allclose(array(log_probs), scores, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("lstm additive", "mixed_bfloat16"),
        ("lstm dot", "mixed_float16"),
        ("transformer rotary", "mixed_float16"),
        ("transformer learned", "mixed_bfloat16"),
    ],
)
def test_half_precision_keeps_float32_weights_and_logits(name, policy):
    exact, half = compiled(name), compiled(name, policy)
    assert {keras.backend.standardize_dtype(w.dtype) for w in half.model.weights} == {"float32"}
    inputs = batch()
    logits = half.call(inputs)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    expected = array(exact.call(inputs))
    assert np.abs(array(logits) - expected).max() < 0.06 * np.abs(expected).max()
    ids, log_probs = half.decode(inputs["source_ids"])
    assert ids.shape == (3, LENGTH) and np.isfinite(array(log_probs)).all()


@every_model
def test_attention_shows_the_first_example(name):
    model, inputs = compiled(name).model, batch()
    found = model.attention({key: ids[1:] for key, ids in inputs.items()})
    assert found["axes"] == ("target_ids", "source_ids")
    assert found["weights"].shape == (5, 6)
    np.testing.assert_allclose(found["weights"].sum(-1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(found["weights"][:, 4:], 0.0)  # this source has two places of padding


@pytest.mark.parametrize("name", ["lstm additive", "transformer rotary"])
def test_one_batch_is_learned_in_a_few_dozen_steps(name):
    keras.utils.set_random_seed(0)
    kind, settings = MODELS[name]
    model = kind(V, ModelConfig(**{**TINY, "embedding_dim": 16, "hidden_dim": 16, "num_layers": 1, **settings}))
    inputs = batch(rows=8)
    target = ops.convert_to_numpy(inputs["target_ids"])
    labels = np.concatenate([target[:, 1:], np.full((8, 1), END)], axis=1)
    model.compile(
        keras.optimizers.Adam(0.02),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=ON_JAX,
    )
    losses = [float(model.train_on_batch(inputs, labels, (labels != PAD).astype("float32"))) for _ in range(60)]
    assert losses[0] > 2.0
    assert losses[-1] < 0.15
    best = ops.convert_to_numpy(model.predict_on_batch(inputs)).argmax(-1)
    np.testing.assert_array_equal(best[labels != PAD], labels[labels != PAD])


@pytest.mark.skipif(ON_JAX, reason="a TensorFlow graph")
@pytest.mark.parametrize("name", ["lstm additive", "transformer rotary"])
def test_a_saved_graph_decodes_any_batch_without_xla(name, tmp_path):
    import tensorflow as tf

    graphs = compiled(name)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, name="source_ids")], autograph=False)
    def decode(source_ids):
        ids, log_probs = graphs.decode(source_ids)
        return {"ids": ids, "log_probs": log_probs}

    graph = decode.get_concrete_function().graph.as_graph_def()
    used = {node.op for node in graph.node} | {n.op for f in graph.library.function for n in f.node_def}
    assert not [op for op in used if op.startswith("Xla") or op in ("PyFunc", "EagerPyFunc")]
    module = tf.Module()
    module.weights = [variable.value for variable in graphs.model.variables]
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": decode})
    loaded = tf.saved_model.load(str(tmp_path / "m")).signatures["serving_default"]
    source = batch()["source_ids"]
    together = loaded(source)["ids"].numpy()
    np.testing.assert_array_equal(together, graphs.decode(source)[0].numpy())
    np.testing.assert_array_equal(loaded(source[1:2, :4])["ids"].numpy(), together[1:2])  # alone, without its padding
    assert loaded(source[:0])["ids"].shape == (0, LENGTH)


@pytest.mark.skipif(ON_JAX, reason="TFLite converts TensorFlow graphs")
@pytest.mark.parametrize("name", ["lstm additive", "transformer rotary"])
def test_the_decode_loop_converts_to_builtin_tflite_ops(name):
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
    import tensorflow as tf

    from keras_llm.export.lite import lite_ops

    graphs = compiled(name)

    @tf.function(input_signature=[tf.TensorSpec([1, 6], tf.int32, name="source_ids")], autograph=False)
    def decode(source_ids):
        model = graphs.model
        return greedy(model.step, tf.fill([1], START), model.start(source_ids, LENGTH), END, PAD, LENGTH)

    with lite_ops():
        concrete = decode.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    interpreter = interpreter_module.Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    for row in ops.convert_to_numpy(batch()["source_ids"]):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], row[None])
        interpreter.invoke()
        ids, log_probs = (interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details())
        expected, expected_log_probs = decode(tf.constant(row[None]))
        np.testing.assert_array_equal(ids, expected.numpy())
        np.testing.assert_allclose(log_probs, expected_log_probs.numpy(), atol=1e-4)
