"""Prompts of unequal length in one batch: every row decodes as it does alone."""

import numpy as np
import pytest
from keras import ops

from keras_llm.generation.beam import beam_search
from keras_llm.generation.decode import greedy, sample
from keras_llm.generation.forced import Forced
from keras_llm.generation.logits import Rules

SIZE, END, LENGTH = 7, 1, 6
# A toy model whose state is a hash of all it was given and how many that were, as a decoder's cache is.
TABLE = np.random.default_rng(0).normal(size=(64, SIZE)).astype("float32") * 3
TABLE[:, END] -= 2


def step(ids, state):
    past = (state["past"] * 5 + ids + 1) % 64
    return ops.take(ops.convert_to_tensor(TABLE), past, axis=0), {"past": past, "place": state["place"] + 1}


def begin(prompts):
    """What a model with one place for all rows begins with: the shortest prompt is in its state but for its last id."""
    shortest = min(map(len, prompts))
    past = []
    for prompt in prompts:
        value = 0
        for token in prompt[: shortest - 1]:
            value = (value * 5 + token + 1) % 64
        past.append(value)
    width = max(map(len, prompts)) - shortest
    rest = [prompt[shortest:] + [0] * (width - len(prompt) + shortest) for prompt in prompts]
    return {
        "step": step,
        "start_ids": ops.convert_to_tensor([prompt[shortest - 1] for prompt in prompts]),
        "state": {"past": ops.convert_to_tensor(np.array(past, "int32")), "place": ops.zeros((), "int32")},
        "end_id": END,
        "pad_id": END,
        "max_length": LENGTH,
        "forced": Forced(
            ops.convert_to_tensor(np.array(rest, "int32").reshape(len(prompts), width)),
            ops.convert_to_tensor(np.array([len(prompt) - shortest for prompt in prompts], "int32")),
        ),
    }


PROMPTS = [[2, 3], [2, 4, 5, 6, 3, 1], [6], [2, 5, 5], [3] * 9]  # the end's id in a prompt ends nothing


def column(values, dtype):
    return ops.convert_to_tensor(np.array(values, dtype))


def decoded(way, rows):
    prompts = [PROMPTS[i] for i in rows]
    rules = {
        "repetition_penalty": column([[1.0, 1.5, 2.0, 1.2, 1.0][i] for i in rows], "float32"),
        "no_repeat_ngram_size": column([[0, 2, 1, 0, 2][i] for i in rows], "int32"),
        "min_length": column([[0, 3, 0, 6, 1][i] for i in rows], "int32"),
        "max_length": column([[6, 4, 0, 6, 2][i] for i in rows], "int32"),
    }
    if way == "greedy":
        found = greedy(**begin(prompts))
    elif way == "sample":
        found = sample(**begin(prompts), seed=column([7 + i for i in rows], "int32"), top_p=0.9, rules=Rules(**rules))
    else:
        penalty = column([[0.0, 1.0, 2.0, -1.0, 1.0][i] for i in rows], "float32")
        found = beam_search(**begin(prompts), num_beams=3, num_results=2, length_penalty=penalty, rules=Rules(**rules))
    return [ops.convert_to_numpy(value) for value in found]


@pytest.mark.parametrize("way", ["greedy", "sample", "beam"])
def test_a_row_decodes_in_company_as_alone(way):
    together = decoded(way, range(len(PROMPTS)))
    for i in range(len(PROMPTS)):
        ids, scores = decoded(way, [i])
        assert ids[0].tolist() == together[0][i].tolist()
        np.testing.assert_allclose(scores[0], together[1][i], rtol=1e-5)
    assert len({str(row.tolist()) for row in together[0]}) > 2


def test_alone_nothing_is_forced():
    arguments = begin([PROMPTS[1]])
    ids, scores = greedy(**arguments)
    plain = greedy(**{**arguments, "forced": None})
    assert ops.convert_to_numpy(ids).tolist() == ops.convert_to_numpy(plain[0]).tolist()
    np.testing.assert_allclose(ops.convert_to_numpy(scores), ops.convert_to_numpy(plain[1]), rtol=1e-6)
