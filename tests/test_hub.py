"""KerasHub models of every family the exporter knows: strings in, strings or numbers out, as KerasHub itself computes them."""

import json
import os
from types import SimpleNamespace

import hub_presets
import keras
import keras_hub
import minilm
import numpy as np
import pytest
import tensorflow as tf
from programs import run as run_script

from keras_llm.errors import UserError
from keras_llm.export import gates
from keras_llm.export.saved_model import save
from keras_llm.generation import decode
from keras_llm.hub.encoders import make_encoder, splitting_of_family
from keras_llm.hub.preset import open_preset
from keras_llm.hub.writing import CausalLM, Seq2SeqLM
from keras_llm.tasks.base import Signature
from keras_llm.text.splitting import SPLITTINGS

TEXTS = ["What is a language model? It", "什么是", "", "The attention mechanism was proposed in 2014.", "🙂"]
RECORDS = [{"text": text} for text in TEXTS]
WRITERS = ["gpt2", "llama3", "qwen2", "gemma3", "bart"]
# Tracing all of them takes a minute: KERAS_LLM_ALL_FAMILIES=1 when KerasHub or the decoding changes.
WRITERS += ["llama", "qwen3", "gemma", "t5"] * bool(os.environ.get("KERAS_LLM_ALL_FAMILIES"))


@pytest.fixture(scope="module", params=WRITERS)
def writer(request, tmp_path_factory):
    """KerasHub's task, and ours from its preset."""
    directory = tmp_path_factory.mktemp(request.param)
    theirs = getattr(hub_presets, request.param)()
    theirs.save_to_preset(str(directory))
    return theirs, open_preset(directory, max_answer_length=3)


@pytest.fixture(scope="module")
def written(writer):
    """Everything greedy decoding gives, with its ids, as one way to be asked: tracing takes the time of these tests."""
    _, ours = writer

    def ids(text):
        begun = ours.begin(text)
        ids, logs = decode.greedy(**begun)
        return {"answer": ours.tokenizer.decode(ids), "ids": ids, "logs": logs}

    signature = Signature(ids, ours.inputs)
    return ours.trace(ids, signature.inputs), signature


def whole(theirs, ours, text, ids):
    """Log-probabilities of the model without a cache, at each place of an answer, by reading all of it at once."""
    start, end = ours.frame
    source = [*start, *ours.tokenizer.encode([text]).to_list()[0][: ours.limit - len(start) - len(end)], *end]
    starts = list(getattr(ours, "starts", []))
    if starts:
        given = {"encoder_token_ids": [source], "decoder_token_ids": [starts + ids]}
    else:
        given = {"token_ids": [(source or [ours.end_ids[0]]) + ids]}
    given = {name: np.array(value, "int32") for name, value in given.items()}
    given |= {name.replace("token_ids", "padding_mask"): np.ones_like(value) for name, value in given.items()}
    logits = keras.ops.convert_to_numpy(theirs(given))[0, -len(ids) - 1 :]
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    if len(ours.end_ids) > 1:  # they are one end
        exponentials[:, ours.end_ids[0]] = exponentials[:, ours.end_ids].sum(1)
        exponentials[:, ours.end_ids[1:]] = 1e-30
    return np.log(exponentials / exponentials.sum(1, keepdims=True))


def test_writers_decode_as_the_whole_model_in_company_as_alone(writer, written):
    theirs, ours = writer
    assert isinstance(ours, Seq2SeqLM if isinstance(theirs, keras_hub.models.Seq2SeqLM) else CausalLM)
    function, _ = written
    together = function(text=tf.constant(TEXTS))
    ends = ours.end_ids
    for i, text in enumerate(TEXTS[:2]):
        ids = together["ids"].numpy()[i].tolist()
        ids = ids[: ids.index(ends[0])] if ends[0] in ids else ids
        logs = whole(theirs, ours, text, ids)
        wanted = logs.argmax(1).tolist()
        assert wanted[: len(ids)] == ids and (len(ids) == 4 or wanted[len(ids)] == ends[0])
        found = together["logs"].numpy()[i][: len(ids)]
        np.testing.assert_allclose(found, [logs[j, id_] for j, id_ in enumerate(ids)], atol=1e-4)
    for i, text in enumerate(TEXTS):
        alone = function(text=tf.constant([text]))
        assert together["ids"].numpy()[i].tolist() == alone["ids"].numpy()[0].tolist()
        np.testing.assert_allclose(together["logs"][i], alone["logs"][0], atol=1e-4)


def test_what_a_writer_saves_passes_the_gates_and_answers(writer, written, tmp_path):
    _, ours = writer
    function, signature = written
    ways = {"serving_default": signature}
    save(SimpleNamespace(tokenizer=ours.tokenizer, model=ours.model, trace=ours.trace, signatures=ways), tmp_path / "m")
    ops = gates.check(tmp_path / "m", "2.19")
    assert "While" in ops or "StatelessWhile" in ops
    assert not [op for op in ops if "Xla" in op or "Mutable" in op or "PyFunc" in op]
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    found = loaded.signatures["serving_default"](text=tf.constant(TEXTS))
    assert found["answer"].numpy().tolist() == function(text=tf.constant(TEXTS))["answer"].numpy().tolist()


def test_sampling_and_beams_in_company_as_alone(writer):
    _, ours = writer
    signature = {"GPT2CausalLM": "sample", "BartSeq2SeqLM": "beam"}.get(type(ours.model).__name__)
    if signature is None:
        pytest.skip("one of each kind shows it")
    requests = [ours.signatures[signature].example(record, i) for i, record in enumerate(RECORDS)]
    for request, answer in zip(requests, ours.ask(requests, signature=signature), strict=True):
        (alone,) = ours.ask([request], signature=signature)
        assert answer == {"answer": alone["answer"], "score": pytest.approx(alone["score"], rel=1e-3)}


# Encoders


def packed(ours, texts):
    """Ids and mask, by hand: framed, cut, padded."""
    start, end = ours.frame
    rows = [[*start, *row[: ours.limit - 2], *end] for row in ours.tokenizer.encode(texts).to_list()]
    width = max(map(len, rows))
    ids = np.array([row + [ours.pad_id] * (width - len(row)) for row in rows], "int32")
    return {
        "token_ids": ids,
        "padding_mask": np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], "int32"),
    }


def fed(theirs, given):
    given = {**given, "segment_ids": np.zeros_like(given["token_ids"])}
    names = theirs.input if isinstance(theirs.input, dict) else given
    return keras.tree.map_structure(keras.ops.convert_to_numpy, theirs({name: given[name] for name in names}))


LONG = "what is a language model ? " * 30
ENCODED = ["what is playing?", "什么模型？", "", LONG]


@pytest.mark.parametrize("name", ["bert", "roberta"])  # DistilBERT's is exported below
def test_classifiers(name, tmp_path):
    theirs = getattr(hub_presets, name)("TextClassifier", num_classes=3)
    theirs.save_to_preset(str(tmp_path))
    ours = open_preset(tmp_path)
    assert (ours.kind, ours.limit) == ("text_classifier", 32)
    answers = ours.ask([{"text": text} for text in ENCODED])
    logits = fed(theirs, packed(ours, ENCODED))
    wanted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose([answer["probabilities"] for answer in answers], wanted, atol=1e-5)
    assert [answer["answer"] for answer in answers] == [str(best) for best in wanted.argmax(1)]
    np.testing.assert_allclose([answer["score"] for answer in answers], wanted.max(1), atol=1e-5)


@pytest.mark.parametrize("name", ["distil_bert", "roberta"])
def test_masks_are_filled(name, tmp_path):
    theirs = getattr(hub_presets, name)("MaskedLM")
    theirs.save_to_preset(str(tmp_path))
    ours = open_preset(tmp_path)
    mask = ours.mask_token
    assert mask == {"roberta": "<mask>", "distil_bert": "[MASK]"}[name]
    texts = [f"what is a {mask} model? {mask}", f"{mask}什么", "no mask", f"{'what ' * 40}{mask}"]
    first, second, third, fourth = ours.ask([{"text": text} for text in texts])
    # By hand for the first text, from the ids of its parts.
    parts = [ours.tokenizer.encode([part]).to_list()[0] for part in ("what is a", " model?")]
    if name != "roberta":
        assert parts[0] == ours.tokenizer.encode(["what is a "]).to_list()[0]
    ids = [*ours.frame[0], *parts[0], ours.mask_id, *parts[1], ours.mask_id, *ours.frame[1]]
    given = {"token_ids": np.array([ids], "int32"), "padding_mask": np.ones((1, len(ids)), "int32")}
    places = [i for i, id_ in enumerate(ids) if id_ == ours.mask_id]
    logits = fed(theirs, {**given, "mask_positions": np.array([places], "int32")})[0]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(first["scores"], -np.sort(-probabilities[0])[:5], atol=1e-5)
    assert first["score"] == pytest.approx(float(np.sqrt(probabilities.max(1).prod())), rel=1e-3)
    best = [ours.tokenizer.pieces(tf.constant(id_)).numpy() for id_ in probabilities.argmax(1)]
    if name == "roberta":  # the token brings its own space
        wanted = b"what is a" + best[0] + b" model?" + best[1]
    else:
        wanted = b"what is a " + best[0].strip() + b" model? " + best[1].strip()
    assert first["answer"] == wanted.decode("utf-8", "replace")
    assert first["tokens"][0] == best[0].strip().decode("utf-8", "replace")
    assert second["answer"].endswith("什么") and not second["answer"].startswith(mask)
    assert third == {"answer": "no mask", "score": 0.0, "tokens": [""] * 5, "scores": [0.0] * 5}
    assert fourth["answer"] == ("what " * 40 + mask if name != "roberta" else ("what " * 40).rstrip() + mask)


POOLINGS = {
    "mean": lambda states, mask: (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True),
    "cls": lambda states, mask: states[:, 0],
    "max": lambda states, mask: np.where(mask[..., None], states, -np.inf).max(1),
}


@pytest.mark.parametrize(
    ("name", "pooling", "normalised"), [("bert", "mean", True), ("roberta", "cls", False), ("bert", "max", True)]
)
def test_embeddings_as_the_folder_says(name, pooling, normalised, tmp_path):
    theirs = getattr(hub_presets, name)("TextEmbedder" if name == "bert" else "MaskedLM").backbone
    theirs.save_to_preset(str(tmp_path))
    getattr(hub_presets, name)("MaskedLM").preprocessor.tokenizer.save_to_preset(str(tmp_path))
    (tmp_path / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{mode}": mode.startswith(pooling) for mode in ("mean_tokens", "cls_token", "max_tokens")}
    if pooling == "cls":  # as sentence-transformers 5.4 writes it
        modes = {"pooling_mode": pooling, "include_prompt": True}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 8, **modes}))
    modules = ["Transformer", "Pooling", *["Normalize"] * normalised]
    (tmp_path / "modules.json").write_text(json.dumps([{"type": f"sentence_transformers.models.{m}"} for m in modules]))
    file, key = {
        False: ("sentence_bert_config.json", "max_seq_length"),
        True: ("tokenizer_config.json", "model_max_length"),
    }[pooling == "cls"]
    (tmp_path / file).write_text(json.dumps({key: 10}))
    ours = open_preset(tmp_path)
    assert (ours.kind, ours.limit) == ("text_embedder", 10)
    given = packed(ours, ENCODED)
    states = fed(theirs, given)
    states = states["sequence_output"] if isinstance(states, dict) else states
    wanted = POOLINGS[pooling](states, given["padding_mask"])
    wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True) if normalised else wanted
    np.testing.assert_allclose(
        [a["embedding"] for a in ours.ask([{"text": text} for text in ENCODED])], wanted, atol=1e-5
    )
    # What sentence-transformers does to a text before is refused, as by an import.
    (tmp_path / "config_sentence_transformers.json").write_text('{"default_prompt_name": "query"}')
    with pytest.raises(UserError, match="default_prompt_name must be null"):
        open_preset(tmp_path)
    (tmp_path / "config_sentence_transformers.json").unlink()
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    if name == "bert":
        assert open_preset(tmp_path).pooling == pooling
    else:
        with pytest.raises(UserError, match="do_lower_case must be false"):
            open_preset(tmp_path)


def test_kerashub_embedders_keep_their_settings(tmp_path):
    hub_presets.bert("TextEmbedder", pooling_mode="cls", normalize=False).save_to_preset(str(tmp_path))
    ours = open_preset(tmp_path)
    assert (ours.pooling, ours.normalised, ours.kind) == ("cls", False, "text_embedder")


# From the command line


def test_command_line_proves_what_it_exports(tmp_path):
    hub_presets.distil_bert("TextClassifier", num_classes=2).save_to_preset(str(tmp_path / "preset"))
    (tmp_path / "texts.txt").write_text("what is a model?\n\n什么语言？\n" * 8, encoding="utf-8")
    name, texts = tmp_path / "exported" / "sentiment", ("--data", tmp_path / "texts.txt", "--max-length", 16)
    done = run_script("export", "--keras-hub", tmp_path / "preset", name, *texts)
    assert done.returncode == 0, done.stderr
    assert "DistilBertTextClassifier as text_classifier, texts of at most 16 ids" in done.stdout
    assert "python: equal to Python's" in done.stdout and "c++: equal to Python's" in done.stdout
    report = json.loads((tmp_path / "exported" / "sentiment" / "1" / "report.json").read_text())
    assert report["kind"] == "text_classifier" and report["differences"] == 0 and report["compared"] >= 64
    assert report["signatures"]["serving_default"]["outputs"] == {
        "answer": "string",
        "probabilities": "float32",
        "score": "float32",
    }
    assert (tmp_path / "exported" / "models.config").exists()


# What cannot be exported


def test_a_head_of_random_numbers_is_refused(tmp_path):
    theirs = hub_presets.bert("MaskedLM")
    theirs.backbone.save_to_preset(str(tmp_path))
    theirs.preprocessor.tokenizer.save_to_preset(str(tmp_path))
    for kind in ("text_classifier", "masked_lm"):
        with pytest.raises(UserError, match="must come with its head.*--task text_embedder"):
            open_preset(tmp_path, kind)


def test_tflite_files_of_a_preset_are_refused(tmp_path):
    done = run_script("export", "--keras-hub", tmp_path, tmp_path / "x", "--lite", "float32")
    assert done.returncode == 2 and "--lite is for runs. Received: it with --keras-hub" in done.stderr


def test_a_file_without_a_text_is_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "blank.txt").write_text("\n \n")
    done = run_script("export", "--keras-hub", tmp_path, tmp_path / "x", "--data", tmp_path / "blank.txt")
    assert done.returncode == 2 and "must not be empty. Received: " in done.stderr
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_no_preset(tmp_path):
    with pytest.raises(UserError, match="A preset is a directory"):
        open_preset(tmp_path / "missing")
    with pytest.raises(UserError, match="config.json that names the model"):
        open_preset(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json must be JSON"):
        open_preset(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForQuestionAnswering"]}')
    with pytest.raises(UserError, match="names BertForQuestionAnswering"):
        open_preset(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "nothing", "architectures": ["NothingForCausalLM"]}')
    with pytest.raises(
        UserError, match="KerasHub must be able to read .* as a CausalLM. Received: ValueError: .*nothing"
    ):
        open_preset(tmp_path)
    with pytest.raises(UserError, match="--task must be one of"):
        open_preset(tmp_path, "image_classifier")


def test_tokenizers_that_are_no_graph(tmp_path):
    tokenizer = hub_presets.models.MistralTekkenTokenizer(
        **hub_presets.byte_pair("gpt2", ["<s>", "</s>"]), split_pattern=r"\s+|\S+"
    )
    with pytest.raises(UserError, match="MistralTekkenTokenizer.*Python function"):
        make_encoder(tokenizer, tmp_path)
    with pytest.raises(UserError, match="FalconTokenizer"):
        splitting_of_family("FalconTokenizer", tmp_path)


def test_sentence_pieces_are_kerashubs(tmp_path):
    proto = hub_presets.sentence_pieces()
    for cls in (hub_presets.models.LlamaTokenizer, hub_presets.models.XLMRobertaTokenizer):
        theirs = cls(proto)
        ours = make_encoder(theirs, tmp_path)
        texts = ["What is a language model?", "什么是语言模型？ 🙂\n\t", "", "  two  spaces <s> </s> \u0378"]
        ids = ours.encode(texts).to_list()
        assert ids == [list(map(int, theirs(text))) for text in texts]
        assert [text.decode() for text in ours.decode(ours.encode(texts)).numpy()] == theirs.detokenize(ids)
        special = [theirs.start_token_id, theirs.end_token_id, -1, ours.vocabulary_size]
        assert ours.decode(tf.constant([special], tf.int32)).numpy().tolist() == [b""]


def test_how_a_tokenizer_splits_is_read_from_the_folder(tmp_path):
    for name, splitting in SPLITTINGS.items():
        (tmp_path / "tokenizer.json").write_text(hub_presets.train_byte_pair(name).to_str())
        assert splitting_of_family("FalconTokenizer", tmp_path) == splitting
    (tmp_path / "tokenizer.json").write_text(
        '{"pre_tokenizer": {"type": "ByteLevel", "use_regex": true}, "normalizer": {"type": "NFC"}, "model": {}}'
    )
    assert splitting_of_family("GPTNeoXTokenizer", tmp_path).normal_form == "nfc"
    (tmp_path / "tokenizer.json").write_text('{"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "x"}}}')
    with pytest.raises(UserError, match='"Regex": "x"'):
        splitting_of_family("GPT2Tokenizer", tmp_path)


def test_lengths_must_fit(tmp_path):
    hub_presets.gpt2().save_to_preset(str(tmp_path))
    with pytest.raises(UserError, match="--max-length must be at least 4 and at most 32"):
        open_preset(tmp_path, max_length=33)
    with pytest.raises(UserError, match="--max-answer-length must be at least 1 and at most 30"):
        open_preset(tmp_path, max_answer_length=31)
    ours = open_preset(tmp_path)
    assert (ours.limit, ours.longest) == (17, 15)
    with pytest.raises(UserError, match="made by an encoder.*GPT2Backbone"):
        open_preset(tmp_path, "text_embedder")


# A real one


def test_minilm_as_sentence_transformers():
    folder, wanted = minilm.folder(), minilm.vectors()
    found = [answer["embedding"] for answer in open_preset(folder).ask([{"text": text} for text in minilm.TEXTS])]
    assert np.sum(found * wanted, axis=1).min() > 0.99999
    np.testing.assert_allclose(found, wanted, atol=1e-3)  # KerasHub's GELU is the approximation by tanh
