"""RoBERTa's checkpoints: numbers and ids of `transformers`, there and back, with padding that is not 0."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from generated_texts import generated_texts

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from micro_encoders import ROBERTA, fine_tuned, save_roberta, save_roberta_tokenizer  # noqa: E402

from keras_llm.checkpoints import roberta  # noqa: E402
from keras_llm.checkpoints.exporting import export_checkpoint  # noqa: E402
from keras_llm.checkpoints.importing import import_checkpoint, open_checkpoint  # noqa: E402
from keras_llm.checkpoints.table import to_theirs  # noqa: E402
from keras_llm.data.prepared import Prepared, in_memory  # noqa: E402
from keras_llm.errors import UserError  # noqa: E402
from keras_llm.presets import make_config  # noqa: E402
from keras_llm.run import load, named_weights, save_weights, write_manifest  # noqa: E402
from keras_llm.text.units import units_of  # noqa: E402
from keras_llm.training.pretrain import pretrain_run  # noqa: E402

TEXTS = ["What is a language model?", "什么是语言模型？", " a 🙂", "", "a " * 40]
CLASSES = {"RobertaForMaskedLM": {"layer_norm_eps": 1e-5}, "RobertaModel": {"hidden_act": "gelu_new"}}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    made = {}
    for name, values in CLASSES.items():
        folder = tmp_path_factory.mktemp(name)
        made[name] = folder, save_roberta(folder, name, **values)
    return made


def batch():
    ids = np.random.default_rng(0).integers(4, ROBERTA["vocab_size"], (3, 12))
    ids[:, 0] = 0
    ids[1, 7:] = ids[2, 2:] = 1
    return ids


def theirs(model, ids):
    with torch.no_grad():
        return model(torch.from_numpy(ids), attention_mask=torch.from_numpy((ids != 1).astype("int64")))


@pytest.mark.parametrize("name", CLASSES)
def test_numbers_are_those_of_transformers_and_tensors_come_back(checkpoints, name):
    folder, model = checkpoints[name]
    task = open_checkpoint(folder)
    network = task.config.network
    assert task.config.kind == ("masked_lm" if name == "RobertaForMaskedLM" else "embedding")
    assert (network.pad_id, network.context_length, network.segments) == (1, 32, False)
    ids = batch()
    real, inputs = ids != 1, {"token_ids": ids.astype("int32")}
    wanted = theirs(getattr(model, "roberta", model), ids).last_hidden_state.numpy()
    assert np.abs(wanted).max() > 1
    np.testing.assert_allclose(np.asarray(task.model.encoder(inputs))[real], wanted[real], atol=1e-5)
    if name == "RobertaForMaskedLM":
        found = task.model({**inputs, "mask_positions": np.tile(np.arange(12, dtype="int32"), (3, 1))})["tokens"]
        np.testing.assert_allclose(np.asarray(found)[real], theirs(model, ids).logits.numpy()[real], atol=1e-4)
    weights = {key: np.asarray(weight.value) for key, weight in named_weights(task.model).items()}
    back = to_theirs(roberta.table(task.config, ROBERTA["vocab_size"]), weights)
    tensors = {roberta.CANONICAL(key): value.numpy() for key, value in model.state_dict().items()}
    assert set(tensors) - set(back) <= {*roberta.TIED, "roberta.pooler.dense.weight", "roberta.pooler.dense.bias"}
    for key, array in back.items():
        if not key.endswith(("position_embeddings.weight", "token_type_embeddings.weight")):  # added up
            np.testing.assert_array_equal(array, tensors[key])


@pytest.mark.parametrize("prefix_space", [False, True])
def test_ids_are_those_of_transformers(tmp_path, prefix_space):
    """Of texts, and of texts with masks, which take the space before them."""
    save_roberta_tokenizer(tmp_path, prefix_space)
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    ours = roberta.read_tokenizer(tmp_path, imported_config())
    assert (ours.start_id, ours.pad_id, ours.end_id, ours.unknown_id, ours.mask_id) == (0, 1, 2, 3, 425)
    assert fast.mask_token_id == 425 and ours.all_special_ids == {0, 1, 2, 3, 425}
    texts = generated_texts(1000)
    encode = tf.function(ours.encode, [tf.TensorSpec([None], tf.string)], autograph=False)
    ids = encode(texts).to_list()
    assert ids == fast(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert [row.decode() for row in ours.decode(tf.ragged.constant(ids, tf.int32)).numpy()[:200]] == fast.batch_decode(
        ids[:200]
    )


def imported_config():
    config = make_config("masked_lm", "transformer", "tiny")
    config.text.vocabulary_size, config.network.pad_id = ROBERTA["vocab_size"], 1
    return config


def test_masks_are_filled_as_by_transformers(checkpoints):
    folder, model = checkpoints["RobertaForMaskedLM"]
    task, fast = open_checkpoint(folder), transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["What is [MASK]?", "[MASK] model, a\n[MASK][MASK]", "语言[MASK]", "no mask", "[MASK]"]
    found = task.ask([{"text": text} for text in texts])
    for text, answer in zip(texts, found, strict=True):
        ids = np.array([fast(text.replace("[MASK]", "<mask>"))["input_ids"]])
        logits = theirs(model, ids).logits.numpy()[0]
        logits[:, [*range(4), 425]] = -np.inf
        places = np.flatnonzero(ids[0] == 425)
        assert len(places) == text.count("[MASK]")
        if not len(places):
            assert answer["answer"] == text and answer["score"] == 0
            continue
        best = np.argsort(-logits[places[0]], kind="stable")[:5]
        assert answer["tokens"] == [fast.decode([id_]) for id_ in best]
        ids[0, places] = logits[places].argmax(1)
        wanted = fast.decode(ids[0], skip_special_tokens=True)
        # The line feed that the mask took is still there.
        assert "".join(answer["answer"].split()) == "".join(wanted.split())
        if "\n" not in text:
            assert answer["answer"].strip() == wanted.strip()
    spoken = task.tokenizer.pieces(tf.constant([task.tokenizer.encode([" is"]).to_list()[0][0]]))
    assert [part.numpy().tolist() for part in spoken] == [[b"is"], [False]]


def test_words_are_hidden_whole_and_carry_tags(checkpoints):
    """A word is letters and digits without white space; a Chinese character is one by itself, whatever its tokens are."""
    tokenizer = open_checkpoint(checkpoints["RobertaModel"][0]).tokenizer
    text = "(Probability) isn't 2017猫狗 🙂"
    units = units_of(tokenizer, [text])
    places = zip(units.unit_starts.to_list()[0], units.unit_ends.to_list()[0], strict=True)
    assert [text[start:end] for start, end in places] == [
        "(",
        "Probability",
        ")",
        "isn",
        "'t",
        "2017",
        "猫",
        "狗",
        "🙂",
    ]


def test_documents_are_read_with_its_padding(checkpoints):
    task = open_checkpoint(checkpoints["RobertaForMaskedLM"][0])
    task.config.training.batch_size = 2
    records = [{"text": "What is a model?\n什么？"}, {"text": "It is."}] * 3
    x, y, weights = task.split(task.batches(in_memory(task.prepare(records)), 8)[0])
    ids = x["token_ids"]
    assert (ids[:, 0] == 0).all() and (ids == 1).any() and (ids == 425).any() and set(y) == {"tokens"}
    assert task.evaluate(records)["mlm_loss"] > 0
    config = imported_config()
    config.text.tokenizer = "byte_pair"
    with pytest.raises(UserError, match="mask token"):
        pretrain_run(config, checkpoints["RobertaModel"][0] / "run", ["x.txt"])


def test_classifiers_read_pairs_with_two_ends_between(checkpoints, tmp_path):
    folder, model = checkpoints["RobertaModel"]
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    task = fine_tuned(folder, "classification", labels=["a", "b"], pair=True)
    assert task.model.encoder.segments is None
    records = [
        {"text": "What is it?", "pair": "a model", "labels": ["a"]},
        {"text": "什么？", "pair": "It", "labels": ["b"]},
    ]
    ids, _ = task.encode_texts(*(tf.constant([record[name] for record in records]) for name in ("text", "pair")))
    wanted = fast([r["text"] for r in records], [r["pair"] for r in records], padding=True)
    assert ids.numpy().tolist() == wanted["input_ids"]
    # Prepared arrays lose their padding and get it back; the vectors are the same.
    batch = task.batches(Prepared.write(tmp_path / "data", task.prepare(records), ""), 8)[0]
    rows = sorted(batch["token_ids"].tolist())
    width = ids.shape[1]
    assert sorted(row[:width] for row in rows) == sorted(wanted["input_ids"])
    assert all(set(row[width:]) <= {1} for row in rows) and len(rows[0]) % 8 == 0
    x = task.split(batch)[0]
    states = theirs(model, batch["token_ids"].astype("int64")).last_hidden_state.numpy()
    real = batch["token_ids"] != 1
    np.testing.assert_allclose(np.asarray(task.model.encoder(x))[real], states[real], atol=1e-5)
    means = np.stack([row[mask].mean(0) for row, mask in zip(states, real, strict=True)])
    logits = means @ task.model.head.kernel.numpy() + task.model.head.bias.numpy()
    np.testing.assert_allclose(task.model(x), logits, atol=1e-5)
    longer = np.pad(batch["token_ids"], ((0, 0), (0, 3)), constant_values=1)  # padding changes nothing
    np.testing.assert_allclose(task.model({**x, "token_ids": longer}), logits, atol=1e-5)


def test_readers_read_question_and_context_as_one_text(checkpoints, tmp_path):
    folder, model = checkpoints["RobertaModel"]
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    task = fine_tuned(folder, "reading")
    assert task.config.model == "transformer_encoder"
    questions, contexts = ["What?", "什么是模型？"], ["It is a model.", "a"]
    found = task.windows(tf.constant(questions), tf.constant(contexts))
    x = {name: found[name].numpy() for name in ("question_ids", "context_ids")}
    assert (x["context_ids"] == 1).any() and (x["question_ids"][0] == 1).any()
    logits = np.asarray(task.model(x))
    kernel, bias = task.model.head.kernel.numpy(), task.model.head.bias.numpy()
    for row, (question, context) in enumerate(zip(questions, contexts, strict=True)):
        ids = fast(question, context)["input_ids"]
        end = ids.index(2)
        ids = np.array([ids[: min(end, 7)] + ids[end:]])  # of a long question six tokens are read
        scores = theirs(model, ids).last_hidden_state.numpy()[0] @ kernel + bias
        length = len(fast(context, add_special_tokens=False)["input_ids"])
        wanted = np.concatenate([scores[:1], scores[-1 - length : -1]]).T
        np.testing.assert_allclose(logits[row, :, : length + 1], wanted, atol=1e-4)
        assert (logits[row, :, length + 1 :] == -1e9).all()
    answers = [{"start": 8, "text": "model"}]
    record = {"id": "1", "question": "What?", "context": contexts[0], "answers": answers, "impossible": False}
    other = {**record, "context": "a model", "answers": [{"start": 2, "text": "model"}]}
    rows = list(task.prepare([record, other]))
    assert all((row["question_ids"] != 1).all() and (row["context_ids"] != 1).all() for row in rows)
    batch = task.batches(Prepared.write(tmp_path / "data", rows, ""), 8)[0]
    assert set(batch["context_ids"].ravel().tolist()) >= {1} and (batch["question_ids"][:, -1] == 1).all()
    assert task.padding == {"question_ids": 1, "context_ids": 1}


def test_taggers_and_sentence_encoders_pad_as_it_does(checkpoints, tmp_path):
    folder, model = checkpoints["RobertaModel"]
    tagger = fine_tuned(folder, "tagging", labels=["ORG"])
    assert tagger.unknown_id == 3
    records = [
        {"text": "the model is", "entities": [{"start": 4, "end": 9, "label": "ORG"}]},
        {"text": "语言", "entities": []},
    ]
    batch = tagger.batches(in_memory(tagger.prepare(records)), 8)[0]
    short = batch["token_ids"][np.argmin((batch["token_ids"] != 1).sum(1))]
    assert short[-1] == 1 and (batch["places"] == 0).any() and (batch["tags"] == 0).any()
    x = tagger.split(batch)[0]
    states = theirs(model, x["token_ids"].astype("int64")).last_hidden_state.numpy()
    states = np.take_along_axis(states, x["places"][:, :, None].astype("int64"), 1)
    wanted = states @ tagger.model.score.kernel.numpy() + tagger.model.score.bias.numpy()
    real = x["places"] > 0
    np.testing.assert_allclose(np.asarray(tagger.model(x))[real], wanted[real], atol=1e-5)

    with pytest.raises(UserError, match="not a greater one.* network.context_length: 32 → 33"):
        fine_tuned(folder, "embedding", context_length=33)
    encoder = fine_tuned(folder, "embedding", context_length=16)
    texts = ["What is it?", "语言模型", "a"]
    states = [theirs(model, ids_of(encoder, text)).last_hidden_state.numpy()[0].mean(0) for text in texts]
    wanted = np.stack([state / np.linalg.norm(state) for state in states])
    np.testing.assert_allclose(encoder.vectors(texts), wanted, atol=1e-5)
    assert encoder.model.encoder.positions.vectors.shape == (16, 16)
    (tmp_path / "run").mkdir()
    write_manifest(tmp_path / "run", encoder.config, encoder.tokenizer)
    save_weights(encoder, tmp_path / "run" / "model.weights.h5", encoder.tokenizer.fingerprint)
    export_checkpoint(tmp_path / "run", tmp_path / "back", say=lambda line: None)
    again = transformers.RobertaModel.from_pretrained(tmp_path / "back").eval()
    assert again.config.max_position_embeddings == 16 + 2
    states = theirs(again, ids_of(encoder, "a " * 40)).last_hidden_state.numpy()[0].mean(0)
    np.testing.assert_allclose(encoder.vectors(["a " * 40])[0], states / np.linalg.norm(states), atol=1e-5)
    pairs = [{"text": "What", "pair": "a model", "negatives": ["it"]}, {"text": "语言", "pair": "Is", "negatives": []}]
    x = encoder.split(encoder.batches(in_memory(encoder.prepare(pairs)), 8)[0])[0]
    assert sorted(x["candidates"].sum(1).tolist()) == [3, 3]  # both second texts, and the one wrong text there is
    assert all(set(x[name].ravel().tolist()) & {1} for name in ("token_ids", "pair_ids", "negative_ids"))


def ids_of(task, text):
    return task.encode_texts(tf.constant([text])).numpy().astype("int64")


@pytest.mark.parametrize("name", CLASSES)
def test_a_run_and_back(checkpoints, name, tmp_path):
    folder, model = checkpoints[name]
    import_checkpoint(folder, tmp_path / "run", say=lambda line: None)
    task = load(tmp_path / "run")
    export_checkpoint(tmp_path / "run", tmp_path / "back", say=lambda line: None)
    again = getattr(transformers, name).from_pretrained(tmp_path / "back").eval()
    ids = batch()
    first, second = (theirs(one, ids)[0].numpy()[ids != 1] for one in (model, again))
    np.testing.assert_allclose(first, second, atol=1e-5)
    before, after = (transformers.AutoTokenizer.from_pretrained(path) for path in (folder, tmp_path / "back"))
    assert after(TEXTS)["input_ids"] == before(TEXTS)["input_ids"]
    assert after("a <mask> b", "is")["input_ids"] == before("a <mask> b", "is")["input_ids"]
    roles = [(t.cls_token_id, t.sep_token_id, t.pad_token_id, t.unk_token_id, t.mask_token_id) for t in (before, after)]
    assert roles[0] == roles[1] == (0, 2, 1, 3, 425)
    twice = open_checkpoint(tmp_path / "back")
    assert twice.config == task.config and twice.tokenizer.fingerprint == task.tokenizer.fingerprint


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def drop(folder, name, **changed):
    from keras_llm.checkpoints.files import Checkpoint, write_tensors

    tensors = {key: value for key, value in Checkpoint(folder).items() if key != name}
    write_tensors(folder, {**tensors, **changed})


def mask_without_space(folder):
    described = json.loads((folder / "tokenizer.json").read_text())
    described["added_tokens"][-1]["lstrip"] = False
    (folder / "tokenizer.json").write_text(json.dumps(described))


DENSE = "roberta.encoder.layer.0.output.dense.weight"
REFUSED = {
    "two segments": (lambda f: edit(f / "config.json", type_vocab_size=2), "type_vocab_size is supported as 1"),
    "unknown value": (lambda f: edit(f / "config.json", sliding=3), "sliding = 3"),
    "another activation": (lambda f: edit(f / "config.json", hidden_act="relu"), "hidden_act is supported as 'gelu'"),
    "another padding": (lambda f: edit(f / "config.json", pad_token_id=2), r"must be \[|must mean the same padding"),
    "missing tensor": (lambda f: drop(f, DENSE), f"Missing: {DENSE}"),
    "leftover tensor": (
        lambda f: drop(f, "", **{"classifier.dense.scale": np.ones(2)}),
        "Left over: classifier.dense",
    ),
    "no mask": (lambda f: edit(f / "tokenizer_config.json", mask_token="[M]"), r"Missing: \[M\]"),
    "another mask": (mask_without_space, "must take the space before it"),
    "XLM-RoBERTa": (lambda f: edit(f / "config.json", model_type="xlm-roberta"), "Received: 'xlm-roberta'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_supported_is_named_and_leaves_nothing(checkpoints, tmp_path, what):
    change, message = REFUSED[what]
    folder = shutil.copytree(checkpoints["RobertaForMaskedLM"][0], tmp_path / "checkpoint")
    change(folder)
    with pytest.raises(UserError, match=message):
        import_checkpoint(folder, tmp_path / "run", say=lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
