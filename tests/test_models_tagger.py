"""Taggers: what padding, places and characters do to the scores, the characters' convolution in NumPy, training."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_llm.config import ModelConfig
from keras_llm.layers.characters import CharacterFeatures
from keras_llm.layers.crf import CRFLoss
from keras_llm.models.tagger import Tagger

CONFIG = ModelConfig(
    embedding_dim=8, hidden_dim=6, num_layers=1, num_heads=2, feedforward_dim=16, context_length=12, dropout=0.3
)
ALLOWED = np.ones((4, 4), bool)


def array(x):
    return ops.convert_to_numpy(x)


def built(encoder, **changes):
    keras.utils.set_random_seed(0)
    config = ModelConfig(**{**vars(CONFIG), **changes})
    model = Tagger(20, config, encoder, ALLOWED)
    model.build()
    return model


def inputs(characters=False, more=0):
    """Three tokens in a frame, two of them places; `more` columns of padding."""
    x = {"token_ids": np.array([[2, 7, 8, 9, 3]]), "places": np.array([[1, 3]])}
    if characters:
        x["character_ids"] = np.random.default_rng(0).integers(1, 200, (1, 5, 6)) * (np.arange(6) < 4)
    return {name: np.pad(value, [(0, 0), (0, more)] + [(0, 0)] * (value.ndim - 2)) for name, value in x.items()}


@pytest.mark.parametrize(
    ("encoder", "changes"),
    [("lstm", {}), ("lstm", {"character_dim": 4}), ("transformer", {"segments": True})],
    ids=["lstm", "characters", "transformer"],
)
def test_padding_changes_no_score(encoder, changes):
    model = built(encoder, **changes)
    reads_characters = "character_dim" in changes
    scores = array(model(inputs(reads_characters)))
    assert scores.shape == (1, 2, 3) and scores.dtype == "float32"
    padded = array(model(inputs(reads_characters, more=3)))
    np.testing.assert_allclose(padded[:, :2], scores, atol=1e-5)
    x = inputs(reads_characters)
    x["places"] = x["places"][:, ::-1]
    np.testing.assert_allclose(array(model(x)), scores[:, ::-1], atol=1e-5)


def test_characters_change_the_scores_and_only_where_they_are_read():
    model, x = built("lstm", character_dim=4), inputs(characters=True)
    before = array(model(x))
    x["character_ids"][0, 1, :4] += 1
    assert np.abs(array(model(x)) - before).max() > 1e-6
    assert {weight.path.split("/")[1] for weight in model.weights} == {"encoder", "characters", "score", "crf"}


def test_character_features_are_the_largest_of_each_filter():
    layer = CharacterFeatures(3)
    ids = np.array([[[5, 6, 7, 0], [8, 0, 0, 0], [0, 0, 0, 0]]])
    got = array(layer(ids))
    table, kernel, bias = map(array, layer.weights)
    for token in range(2):
        real = ids[0, token][ids[0, token] > 0]
        vectors = np.pad(table[real], ((1, 1), (0, 0)))  # what stands outside is zeros
        places = [sum(vectors[i + k] @ kernel[k] for k in range(3)) + bias for i in range(len(real))]
        np.testing.assert_allclose(got[0, token], np.max(places, axis=0), atol=1e-5)
    assert not got[0, 2].any()
    again = CharacterFeatures.from_config(layer.get_config())
    assert again(ids).shape == got.shape


def test_a_tagger_learns():
    keras.utils.set_random_seed(0)
    model = built("lstm", dropout=0.0)
    random = np.random.default_rng(0)
    tokens = random.integers(4, 10, (16, 4))
    x = {"token_ids": np.pad(tokens, ((0, 0), (1, 1)), constant_values=2), "places": np.tile(np.arange(1, 5), (16, 1))}
    tags = tokens % 3 + 1
    model.compile(
        optimizer=keras.optimizers.Adam(0.02), loss=CRFLoss(model.crf), jit_compile=keras.backend.backend() == "jax"
    )
    for _ in range(60):
        model.train_on_batch(x, tags, np.full(16, 4.0))
    found = array(model.crf.decode(model(x), x["places"] > 0))
    assert (found == tags - 1).mean() > 0.95
