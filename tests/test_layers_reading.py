"""The parts of the readers against NumPy twins."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_llm.layers.reading import (
    AlignedQuestion,
    QuestionContextAttention,
    SpanPointer,
    masked_softmax,
    match_features,
)

RNG = np.random.default_rng(0)


def states(*shape):
    return RNG.normal(size=shape).astype("float32")


def array(x):
    return ops.convert_to_numpy(x)


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def test_masked_softmax_is_float32_and_zero_where_masked():
    weights = array(masked_softmax(ops.cast([[1.0, 2.0, 100.0]], "bfloat16"), ops.array([[True, True, False]])))
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights[0], [*softmax(np.array([1.0, 2.0])), 0.0], rtol=1e-6)


def test_masked_softmax_without_any_real_place_is_finite():
    assert np.isfinite(array(masked_softmax(ops.zeros((1, 3)), ops.zeros((1, 3), "bool")))).all()


def test_match_features_by_hand():
    question = np.array([[7, 8, 9, 0]], "int32")
    context = np.array([[7, 5, 7, 8, 7, 8, 9, 0]], "int32")
    features = array(match_features(context, question, context))[0]
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features[:, 0], [1, 0, 1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(features[:, 1], [0, 0, 1, 0, 1, 1, 0, 0])  # 7 8 or 8 9 begins here
    np.testing.assert_array_equal(features[:, 2], [0, 0, 0, 1, 0, 1, 1, 0])  # and ends here
    counts = np.array([3, 1, 3, 2, 3, 2, 1, 1])  # padding counts once, not nought
    np.testing.assert_allclose(features[:, 3], features[:, 0] / counts, rtol=1e-6)
    np.testing.assert_allclose(features[:, 4], 1 / counts, rtol=1e-6)


def test_match_features_never_match_padding():
    features = array(match_features(ops.array([[5, 0, 0]]), ops.array([[6, 0, 0]]), ops.array([[6, 0, 0]])))
    assert features[0, :, :4].sum() == 0


def test_match_features_of_a_question_count_in_the_context():
    features = array(match_features(ops.array([[4, 6]]), ops.array([[6, 5, 6]]), ops.array([[6, 5, 6]])))
    np.testing.assert_allclose(features[0], [[0, 0, 0, 0, 1], [1, 0, 0, 0.5, 0.5]])


def test_match_features_of_single_tokens():
    features = array(match_features(ops.array([[4]]), ops.array([[4]]), ops.array([[4]])))
    np.testing.assert_array_equal(features[0], [[1, 0, 0, 1, 1]])


def test_aligned_question_is_a_weighted_mean_of_the_question():
    layer = AlignedQuestion(6)
    context, question, mask = states(2, 5, 4), states(2, 3, 4), np.array([[1, 1, 1], [1, 0, 0]], bool)
    y = array(layer(context, question, mask))
    kernel, bias = (array(w) for w in layer.compare.get_weights())
    left, right = np.maximum(context @ kernel + bias, 0), np.maximum(question @ kernel + bias, 0)
    scores = np.where(mask[:, None], left @ right.transpose(0, 2, 1), -1e9)
    np.testing.assert_allclose(y, softmax(scores) @ question, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y[1], np.broadcast_to(question[1, 0], (5, 4)), rtol=1e-5)  # one word to look at


def test_question_context_attention_equals_its_formula():
    layer = QuestionContextAttention(6)
    context, question = states(2, 5, 4), states(2, 3, 4)
    context_mask = np.arange(5)[None] < np.array([[5], [2]])
    question_mask = np.arange(3)[None] < np.array([[2], [3]])
    fused, weights = layer(context, question, context_mask, question_mask)
    w1, w2 = (array(d.get_weights()[0])[:, 0] for d in (layer.score_context, layer.score_question))
    w3 = array(layer.scale)
    twin = np.zeros((2, 5, 3))
    for b, t, q in np.ndindex(2, 5, 3):
        c, h = context[b, t], question[b, q]
        twin[b, t, q] = w1 @ c + w2 @ h + (w3 * c) @ h if question_mask[b, q] else -1e9
    np.testing.assert_allclose(array(weights), softmax(twin), rtol=1e-4, atol=1e-5)
    asked = softmax(twin) @ question
    told = softmax(np.where(context_mask, twin.max(axis=-1), -1e9))[:, None] @ context
    kernel, bias = (array(w) for w in layer.fuse.get_weights())
    joined = np.concatenate([context, asked, context * asked, context * told], axis=-1)
    np.testing.assert_allclose(array(fused), np.maximum(joined @ kernel + bias, 0), rtol=1e-4, atol=1e-4)


def test_span_pointer_equals_its_formula():
    layer = SpanPointer()
    context, question = states(2, 5, 4), states(2, 3, 6)
    context_mask = np.arange(5)[None] < np.array([[5], [2]])
    question_mask = np.arange(3)[None] < np.array([[2], [3]])
    logits = array(layer(context, question, context_mask, question_mask))

    def dense(name, x):
        kernel, bias = (array(w) for w in getattr(layer, name).get_weights())
        return x @ kernel + bias

    asked = (softmax(np.where(question_mask, dense("weigh", question)[..., 0], -1e9))[:, None] @ question)[:, 0]

    def score(query, bias):
        return np.einsum("btd,bd->bt", context, query) / 2 + dense(bias, context)[..., 0]

    start = np.where(context_mask, score(dense("start_query", asked), "start_bias"), -1e9)
    begun = (softmax(start)[:, None] @ context)[:, 0]
    follow = np.tanh(dense("follow", np.concatenate([asked, begun], axis=-1)))
    end = np.where(context_mask, score(dense("end_query", follow), "end_bias"), -1e9)
    highest = np.maximum(np.where(context_mask[..., None], context, -1e9).max(axis=1), -1.0)
    nothing = dense("no_answer", np.concatenate([asked, highest], axis=-1))
    assert logits.shape == (2, 2, 6) and logits.dtype == np.float32
    np.testing.assert_allclose(logits[:, :, 0], nothing, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits[:, 0, 1:], start, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits[:, 1, 1:], end, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_span_pointer_computes_in_float32_under_mixed_precision(policy):
    mask = np.ones((1, 3), bool)
    half = policy.removeprefix("mixed_")
    logits = SpanPointer(dtype=policy)(ops.cast(states(1, 3, 4), half), ops.cast(states(1, 3, 4), half), mask, mask)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"


@pytest.mark.parametrize("layer", [AlignedQuestion(6), QuestionContextAttention(7), SpanPointer()])
def test_config_round_trip(layer):
    config = layer.get_config()
    again = type(layer).from_config(config)
    assert again.get_config() == config


def test_a_question_without_tokens_reads_no_padding_of_the_context():
    attend = QuestionContextAttention(6)
    random = np.random.default_rng(0)
    context, question = random.normal(size=(1, 5, 4)).astype("float32"), random.normal(size=(1, 3, 4)).astype("float32")
    none, real = np.zeros((1, 3), bool), np.ones((1, 5), bool)
    alone, _ = attend(context, question, real, none)
    wider = np.concatenate([context, np.ones((1, 7, 4), "float32")], axis=1)
    padded, _ = attend(wider, question, np.concatenate([real, np.zeros((1, 7), bool)], axis=1), none)
    np.testing.assert_allclose(array(padded)[:, :5], array(alone), rtol=1e-5, atol=1e-6)
