"""Tagging from strings to entities: units, windows, tags and scores against plain Python, and a model that learns."""

import functools
import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_llm.data.tags import parse_tag, read_tags
from keras_llm.presets import make_config
from keras_llm.tasks import make_task
from keras_llm.tasks.tagging import _parts
from keras_llm.text import TOKENIZERS
from keras_llm.text.units import units_of
from keras_llm.validation import validate

TEXTS = [
    "李白在长安写诗，杜甫在成都。",
    "Ada Lovelace met Charles Babbage in London ; later U.N. envoys came .",
    "Ａ ｂ！😀 naïve ﬁ 𠮷野家 Straße",
]
LABELS = ["LOC", "PER", "组织"]
WHITE = "[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"


def micro(tokenizer, model="lstm", **changes):
    config = make_config("tagging", model, "tiny")
    config.text.tokenizer = tokenizer
    config.network.embedding_dim = config.network.hidden_dim = 8
    config.network.num_layers, config.network.num_heads, config.network.feedforward_dim = 1, 2, 16
    config.network.context_length = 12
    config.labels.labels = LABELS
    for name, value in changes.items():
        setattr(config.labels if hasattr(config.labels, name) else config.network, name, value)
    task = make_task(validate(config), TOKENIZERS[tokenizer].train(TEXTS, 400, "lowercase"))
    # Larger weights: an untrained model finds all tags equally likely.
    random = np.random.default_rng(0)
    task.model.set_weights([random.normal(size=w.shape) for w in task.model.get_weights()])
    return task


CASES = {
    "wordpiece": {"tokenizer": "wordpiece"},
    "words and their characters": {"tokenizer": "words", "character_dim": 4},
    "characters, transformer, no crf": {
        "tokenizer": "characters",
        "model": "transformer",
        "crf": False,
        "scheme": "bio",
    },
}


@pytest.fixture(scope="module", params=CASES)
def task(request):
    return micro(**CASES[request.param])


@functools.cache
def units_graph(task):
    signature = [tf.TensorSpec([None], tf.string)]
    return tf.function(functools.partial(units_of, task.tokenizer), input_signature=signature, autograph=False)


@functools.cache
def window_graph(task):
    """The model's inputs for one window -> tags and their log-probabilities."""
    inputs = {name: tf.TensorSpec([1, None, *x.shape[2:]], tf.int32) for name, x in task.example_inputs().items()}

    @tf.function(input_signature=[inputs], autograph=False)
    def graph(x):
        emissions, mask = task.model(x), x["places"] > 0
        tags = task.model.crf.decode(emissions, mask)
        return tags, *task.model.crf.log_probs(emissions, tags, mask)

    return graph


def units(task, text):
    """Units as (first token, start, end), the plain way, and the number of tokens."""
    ids, starts, ends = (x.to_list()[0] for x in task.tokenizer.encode_with_offsets(tf.constant([text.encode()])))
    at = {len(text[:place].encode()): place for place in range(len(text) + 1)}
    found, before = [], -1
    for token, (id_, start, end) in enumerate(zip(ids, starts, ends, strict=True)):
        goes_on = start == before
        if token and hasattr(task.tokenizer, "pieces"):
            goes_on |= bool(task.tokenizer.pieces(tf.constant([id_]))[1].numpy()[0])
        before = start
        if not goes_on and re.sub(WHITE, "", text[at[start] : at[end]]):
            found.append([token, at[start], at[end]])
        elif found:
            found[-1][2] = at[end]
    for unit in found:
        _, start, end = unit
        unit[1] += len(text[start:end]) - len(re.sub(f"^{WHITE}+", "", text[start:end]))
        unit[2] = unit[1] + len(re.sub(f"{WHITE}+$", "", text[unit[1] : end]))
    return [tuple(unit) for unit in found], len(ids)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    [*TEXTS, *(t * 3 for t in TEXTS), ""]
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(text, min_size=1, max_size=4))
def test_units_are_the_plain_ones(task, texts):
    found = units_graph(task)(tf.constant([text.encode() for text in texts]))
    columns = [x.to_list() for x in (found.tokens, found.unit_starts, found.unit_ends)]
    for row, text in enumerate(texts):
        assert list(zip(*(column[row] for column in columns), strict=True)) == units(task, text)[0]
        assert "".join(map(chr, found.codes[row].numpy())) == text


def plain_entities(task, text):
    """The definition: windows one by one, each unit from the one in which it is nearest to the middle."""
    found, count = units(task, text)
    ids = task.tokenizer.encode(tf.constant([text.encode()])).to_list()[0]
    room = task.config.network.context_length - 2
    advance, first = room // 2, [0]
    while first[-1] + room < count:
        first.append(first[-1] + advance)
    tags, alone, given_before = {}, {}, {}
    for begin in first:
        part = ids[begin : begin + room]
        held = [u for u, (token, _, _) in enumerate(found) if begin <= token < begin + room]
        if not held:
            continue
        x = {"token_ids": np.array([[2, *part, 3]]), "places": np.array([[found[u][0] - begin + 1 for u in held]])}
        if task.config.network.character_dim:
            spans = [x.to_list()[0] for x in task.tokenizer.encode_with_offsets(tf.constant([text.encode()]))[1:]]
            words = [text.encode()[a:b][:24] for a, b in zip(*spans, strict=True)][begin : begin + room]
            rows = [[byte + 1 for byte in word] + [0] * (24 - len(word)) for word in words]
            x["character_ids"] = np.array([[[0] * 24, *rows, [0] * 24]])
        best, *logs = (
            np.asarray(values)[0]
            for values in window_graph(task)({name: value.astype("int32") for name, value in x.items()})
        )
        for place, u in enumerate(held):
            distance = abs(found[u][0] - begin - (room - 1) / 2)
            others = [
                abs(found[u][0] - other - (room - 1) / 2) for other in first if other <= found[u][0] < other + room
            ]
            if distance == min(others):  # of two the later one
                tags[u], alone[u], given_before[u] = int(best[place]), logs[0][place], logs[1][place]
    parsed = [parse_tag(task.names[tags[u]]) for u in range(len(found))]
    for span in read_tags(parsed, task.config.labels.scheme):
        score = alone[span.start] + sum(given_before[u] for u in range(span.start + 1, span.end))
        start, end = found[span.start][1], found[span.end - 1][2]
        yield {"text": text[start:end], "label": span.label, "start": start, "end": end, "score": np.exp(score)}


@pytest.mark.parametrize("text", [*TEXTS, TEXTS[0] * 4, TEXTS[1] * 2, " \u3000" + TEXTS[2] * 3, "，\n" * 30])
def test_entities_are_those_of_the_definition(task, text):
    wanted = list(plain_entities(task, text))
    got = task.ask([{"text": text}])[0]
    assert got["count"] == len(wanted)
    entities = task.shown(got)["entities"]
    assert [{**e, "score": 0} for e in entities] == [{**e, "score": 0} for e in wanted]
    assert [e["score"] for e in entities] == pytest.approx([e["score"] for e in wanted], rel=1e-3, abs=1e-6)


def test_some_texts_have_entities_or_the_test_above_shows_nothing(task):
    assert sum(answer["count"] for answer in task.ask([{"text": text} for text in TEXTS])) >= 3


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(text, min_size=1, max_size=5))
def test_answers_are_parts_of_the_text_in_order_whatever_the_batch(task, texts):
    together = task.ask([{"text": text} for text in texts])
    for text, answer in zip(texts, together, strict=True):
        end = 0
        for entity in task.shown(answer)["entities"]:
            assert entity["text"] == text[entity["start"] : entity["end"]] != ""
            assert entity["start"] >= end and 0 <= entity["score"] <= 1 and entity["label"] in LABELS
            end = entity["end"]
        alone = task.ask([{"text": text}])[0]
        assert {**alone, "score": 0} == {**answer, "score": 0}
        assert alone["score"] == pytest.approx(answer["score"], abs=1e-4)


def test_outputs_are_dense_with_at_least_one_column(task):
    found = task.trace()(text=tf.constant(["", " \n"]))
    assert found["text"].numpy().tolist() == [[b""], [b""]] and found["label"].shape == (2, 1)
    assert found["start"].numpy().tolist() == found["end"].numpy().tolist() == [[-1], [-1]]
    assert found["score"].numpy().tolist() == [[0.0], [0.0]] and found["count"].numpy().tolist() == [0, 0]


def entities_of(task, row):
    """A prepared row back to spans of its units."""
    tags = [parse_tag(task.names[tag - 1]) for tag in row["tags"]]
    return [(s.start, s.end, s.label) for s in read_tags(tags, task.config.labels.scheme) if not s.mended]


def test_rows_for_training_hold_every_unit_and_no_cut_entity(task):
    text = f"{TEXTS[1]} {TEXTS[1]} {TEXTS[0]}"
    entities = [{"start": m.start(), "end": m.end(), "label": "PER"} for m in re.finditer("Ada|U.N.|杜甫", text)]
    rows = list(task.prepare([{"text": text, "entities": entities}, {"text": "\u3000", "entities": []}]))
    found, count = units(task, text)
    assert sum(len(row["places"]) for row in rows) == len(found)
    assert all(len(row["token_ids"]) <= task.config.network.context_length for row in rows)
    ids = [id_ for row in rows for id_ in row["token_ids"][1:-1]]
    assert ids == task.tokenizer.encode(tf.constant([text.encode()])).to_list()[0][: len(ids)]
    assert {row["token_ids"][0] for row in rows} == {2} and {row["token_ids"][-1] for row in rows} == {3}
    first, learned = 0, []
    for row in rows:
        for a, b, label in entities_of(task, row):
            assert label == "PER"
            learned.append((found[first + a][1], found[first + b - 1][2]))
        first += len(row["places"])
    touched = [(e["start"], e["end"]) for e in entities]
    if task.config.text.tokenizer == "words":  # Chinese without spaces is one word
        assert learned[:4] == touched[:4]
    else:
        assert learned == touched


def test_a_part_ends_before_an_entity_unless_that_is_too_long():
    assert list(_parts(np.arange(10), 10, [(2, 5, "A")], 4)) == [(0, 2, 0, 2), (2, 6, 2, 6), (6, 10, 6, 10)]
    assert list(_parts(np.arange(6), 6, [(0, 6, "A")], 4)) == [(0, 4, 0, 4), (4, 6, 4, 6)]
    # One unit of more tokens than a part has, then white space.
    assert list(_parts(np.array([0, 9]), 12, [], 4)) == [(0, 1, 0, 4), (1, 2, 9, 12)]
    assert list(_parts(np.array([10, 11]), 12, [], 4)) == [(0, 2, 10, 12)]  # behind a long indentation


def test_character_features_are_those_of_the_words():
    task = micro("words", character_dim=4)
    row = next(iter(task.prepare([{"text": "ab 李", "entities": []}])))
    x, _, weight = task.split({name: np.pad(value, (0, 8 - len(value) % 8))[None] for name, value in row.items()})
    assert x["character_ids"].shape == (1, x["token_ids"].shape[1], 24)
    assert x["character_ids"][0, 1, :3].tolist() == [ord("a") + 1, ord("b") + 1, 0]
    assert x["character_ids"][0, 2, :4].tolist() == [byte + 1 for byte in "李".encode()] + [0]
    assert weight.tolist() == [2.0]
    assert not x["character_ids"][0, 0].any() and not x["character_ids"][0, 3:].any()
