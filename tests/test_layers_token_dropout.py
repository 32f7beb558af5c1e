"""Tokens hidden while training: which, and that taggers and classifiers read what is left."""

import keras
import numpy as np
import pytest

from keras_llm.config import ModelConfig
from keras_llm.layers.token_dropout import TokenDropout
from keras_llm.models.classifier import Classifier
from keras_llm.models.tagger import Tagger

IDS = np.tile([2, 7, 8, 9, 3, 0], (8, 20)).astype("int32")
SETTINGS = {"embedding_dim": 8, "hidden_dim": 4, "num_layers": 1, "dropout": 0.0, "num_heads": 2, "feedforward_dim": 8}


def array(x):
    return np.asarray(keras.ops.convert_to_numpy(x))


def test_a_share_of_the_tokens_is_unknown_and_padding_stays():
    layer = TokenDropout(0.25, unknown_id=1, seed=0)
    seen = array(layer(IDS, training=True))
    assert ((seen == 1) | (seen == IDS)).all() and not seen[IDS == 0].any()
    assert 0.2 < (seen == 1)[IDS > 0].mean() < 0.3
    assert (array(layer(IDS, training=True)) != seen).any()  # others every time
    assert (array(layer(IDS)) == IDS).all()


@pytest.mark.parametrize("encoder", ["lstm", "transformer"])
@pytest.mark.parametrize("kind", ["classifier", "tagger"])
def test_models_read_what_is_left(kind, encoder):
    keras.utils.set_random_seed(0)
    config = ModelConfig(**SETTINGS, token_dropout=1 - 1e-9)  # all of them
    if kind == "classifier":
        model, others = Classifier(20, config, encoder, labels=3, unknown_id=6), {"segment_ids": 0 * IDS}
    else:
        model = Tagger(20, config, encoder, allowed=np.ones((4, 4)), unknown_id=6)
        others = {"places": np.tile([[1, 2]], (8, 1)).astype("int32")}
    plain, hidden = (
        array(model({"token_ids": IDS, **others})),
        array(model({"token_ids": IDS, **others}, training=True)),
    )
    unknown = np.where(IDS > 0, 6, 0).astype("int32")
    np.testing.assert_allclose(hidden, array(model({"token_ids": unknown, **others})), atol=1e-6)
    assert np.abs(plain - hidden).max() > 1e-4
