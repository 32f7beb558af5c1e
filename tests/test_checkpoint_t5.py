"""T5, T5 v1.1 and mT5 in Hugging Face's form, against `transformers`, there and back."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from micro_t5 import CHECKPOINTS, save  # noqa: E402
from test_checkpoint_causal import edit, edit_tensors  # noqa: E402

from keras_llm.checkpoints.exporting import export_checkpoint  # noqa: E402
from keras_llm.checkpoints.importing import import_checkpoint, open_checkpoint  # noqa: E402
from keras_llm.config import Config, LengthConfig, ModelConfig, TokenizerConfig  # noqa: E402
from keras_llm.data.prepared import Prepared  # noqa: E402
from keras_llm.errors import UserError  # noqa: E402
from keras_llm.generation.decode import greedy  # noqa: E402
from keras_llm.layers.embedding import RelativePositions  # noqa: E402
from keras_llm.presets import make_config  # noqa: E402
from keras_llm.run import Run, load, save_weights, write_manifest  # noqa: E402
from keras_llm.tasks import make_task  # noqa: E402
from keras_llm.text import TOKENIZERS  # noqa: E402
from keras_llm.training.start import adopt, architecture, open_start, start_weights, started  # noqa: E402
from keras_llm.training.train import train_run  # noqa: E402
from keras_llm.validation import validate  # noqa: E402

draw = np.random.default_rng(0)
# Longer than the distance from which on all are alike; the second row ends in padding.
SOURCE = draw.integers(3, 900, (2, 20)).astype("int32")
SOURCE[:, -1], SOURCE[1, 13:] = 1, 0
TARGET = np.concatenate([[[0], [0]], draw.integers(3, 900, (2, 16))], axis=1).astype("int32")
TEXTS = ["translate English to German: That is good.", "什么是语言模型？ 🙂", "naïve café 1234567", ""]


class Imported:
    """A checkpoint, `transformers`' model of it, and our run."""

    def __init__(self, name, folder):
        self.folder = folder
        self.theirs = save(name, folder)
        import_checkpoint(folder, folder / "run", say=lambda line: None)
        self.task = load(folder / "run")
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def logits(self, model=None):
        with torch.no_grad():
            return run_theirs(model or self.theirs).logits.numpy()


def run_theirs(model, **more):
    source = torch.tensor(SOURCE, dtype=torch.long)
    return model(
        input_ids=source,
        attention_mask=(source != 0).long(),
        decoder_input_ids=torch.tensor(TARGET, dtype=torch.long),
        **more,
    )


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = Imported(name, tmp_path_factory.mktemp("checkpoint"))
        return made[name]

    return get


def difference(one, other):
    return np.abs(np.asarray(one) - np.asarray(other)).max()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_distances_have_the_buckets_of_transformers(bidirectional):
    bucket_of = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
    distances = np.arange(-700, 701)
    for buckets, furthest in ((32, 128), (8, 12), (64, 333), (33, 17)):
        layer = RelativePositions(2, buckets, furthest, bidirectional)
        layer.build()
        layer.embeddings.assign(np.arange(2 * buckets).reshape(buckets, 2))
        wanted = bucket_of(torch.tensor(distances), bidirectional, buckets, furthest)
        found = np.asarray(layer(np.array([700]), distances + 700))  # [H, 1, S]
        assert (found[:, 0] == [2 * wanted.numpy(), 2 * wanted.numpy() + 1]).all()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_hidden_states_and_logits_are_those_of_transformers(imported, name):
    case = imported(name)
    model, real = case.task.model, SOURCE != 0
    with torch.no_grad():
        theirs = run_theirs(case.theirs, output_hidden_states=True)
    memory, mask = model._encode(SOURCE, training=False)
    assert difference(memory[real], theirs.encoder_last_hidden_state.numpy()[real]) <= 1e-4
    places = tf.range(SOURCE.shape[1])
    x, bias = model._embed(SOURCE, None, False), model.encoder_positions(places, places)
    for block, state in zip(model.encoder, theirs.encoder_hidden_states[:-1], strict=True):
        assert difference(x[real], state.numpy()[real]) <= 1e-4
        x = block(x, mask=mask, bias=bias)
    logits = model({"source_ids": SOURCE, "target_ids": TARGET})
    assert difference(logits, theirs.logits) <= 1e-4
    assert np.abs(theirs.logits.numpy()).max() > 1  # weights that are not nearly nothing


def test_the_greedy_ids_are_those_of_transformers(imported):
    case, length = imported("t5 v1.1"), 16  # beyond the last bucket
    model = case.task.model
    ids, _ = greedy(model.step, np.zeros(2, "int32"), model.start(SOURCE, length), 1, 0, length)
    source = torch.tensor(SOURCE, dtype=torch.long)
    theirs = case.theirs.generate(source, attention_mask=(source != 0).long(), max_new_tokens=length, do_sample=False)
    for ours, row in zip(np.asarray(ids), theirs[:, 1:].numpy(), strict=True):
        row = row[: row.tolist().index(1)] if 1 in row else row
        assert ours[: len(row)].tolist() == row.tolist() and not ours[len(row) :].any()
        assert len(row) == length


def test_a_question_is_answered_as_transformers_does(imported):
    case = imported("t5")
    task = open_checkpoint(case.folder)
    task.config.lengths.max_answer_length = 12
    assert (task.config.kind, task.config.model, task.tokenizer.kind) == ("seq2seq", "transformer", "unigram")
    for text, found in zip(TEXTS, task.ask([{"text": text} for text in TEXTS]), strict=True):
        ids = case.tokenizer(text, return_tensors="pt").input_ids.long()
        assert np.asarray(task.encode_source([text])).tolist() == ids.tolist()
        written = case.theirs.generate(ids, max_new_tokens=task.longest + 1, do_sample=False)[0, 1:].numpy()
        assert found["answer"].encode() == task.tokenizer.decode([written]).numpy()[0]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_there_and_back(imported, name, tmp_path):
    case, folder = imported(name), tmp_path / "checkpoint"
    export_checkpoint(case.folder / "run", folder, say=lambda line: None)
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    assert type(again) is type(case.theirs)
    np.testing.assert_array_equal(case.logits(again), case.logits())
    state, before = again.state_dict(), case.theirs.state_dict()
    assert set(state) == set(before) and all(torch.equal(state[name], before[name]) for name in state)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert type(tokenizer) is type(case.tokenizer) and tokenizer(TEXTS).input_ids == case.tokenizer(TEXTS).input_ids
    # And here again: the same run. Only a tied head without the factor has become a matrix of its own.
    task, network = open_checkpoint(folder), case.task.config.network
    assert task.tokenizer.fingerprint == case.task.tokenizer.fingerprint
    assert {**vars(task.config.network), "tied": network.tied} == vars(network)
    assert task.config.network.tied == network.scale_head
    inputs = {"source_ids": SOURCE, "target_ids": TARGET}
    np.testing.assert_array_equal(task.model(inputs), case.task.model(inputs))


def test_a_run_goes_on_from_a_checkpoint(imported):
    case = imported("t5 v1.1")
    config = Config(kind="seq2seq", model=architecture("seq2seq", started(case.folder)))
    config = validate(adopt(config, started(case.folder)))
    start = open_start(case.folder)
    task = make_task(config, start.tokenizer())
    lines = start_weights(task, start)
    assert len(lines) == 1 and "38 of 38" in lines[0]
    inputs = {"source_ids": SOURCE, "target_ids": TARGET}
    np.testing.assert_array_equal(task.model(inputs), case.task.model(inputs))
    rows = list(task.prepare([{"id": "1", "text": TEXTS[0], "targets": ["Das ist gut."]}]))
    wanted = case.tokenizer(TEXTS[0]).input_ids, [0, *case.tokenizer("Das ist gut.").input_ids]
    assert tuple(row.tolist() for row in (rows[0]["source_ids"], rows[0]["target_ids"])) == wanted
    with pytest.raises(UserError, match="Relative positions are for encoder-decoders. Received: .*classification"):
        validate(adopt(Config(kind="classification"), started(case.folder)))


def test_a_training_reads_its_data_with_the_tokenizer_of_a_folder(imported, tmp_path, monkeypatch):
    """Seeding takes SentencePiece's resource away from a tokenizer that was opened before it."""
    case = imported("t5")
    (tmp_path / "pairs.tsv").write_text("text\ttarget\nWhat is a model?\tIt is a text.\n", encoding="utf-8")
    config = adopt(make_config("seq2seq", "transformer", "finetune"), started(case.folder))
    config.start, config.training.batch_size = str(case.folder), 1
    monkeypatch.setattr("keras_llm.training.train.train_model", lambda *arguments: 0)
    train_run(validate(config), tmp_path / "run", [tmp_path / "pairs.tsv"], say=lambda line: None)
    row = Prepared.open(tmp_path / "run" / "prepared").row(0)["source_ids"].tolist()
    assert row == case.tokenizer("What is a model?").input_ids


def test_an_untied_head_of_span_corruption_loses_its_sentinels(tmp_path):
    network = ModelConfig(embedding_dim=8, num_layers=1, num_heads=2, feedforward_dim=8, tied=False)
    made = TOKENIZERS["characters"].train(["一二三 abc"], 300)
    text = TokenizerConfig("characters", 300)
    task = make_task(validate(Config(kind="span_corruption", text=text, network=network)), made)
    tmp_path.joinpath("run").mkdir()
    write_manifest(tmp_path / "run", task.config, made, data="")
    save_weights(task, Run(tmp_path / "run").best_weights, made.fingerprint)
    goal = make_task(validate(Config(kind="seq2seq", text=text, network=network)), made)
    assert "31 of 31" in start_weights(goal, open_start(tmp_path / "run"))[0]
    np.testing.assert_array_equal(goal.model.head.kernel, task.model.head.kernel[:, :-100])


def test_a_run_trained_here_has_no_such_form(tmp_path):
    made = TOKENIZERS["sentencepiece"].train(["什么是语言模型？ What is it?"], 300)
    network = ModelConfig(embedding_dim=8, num_layers=1, num_heads=2, feedforward_dim=8, copy=True)
    config = Config(kind="seq2seq", text=TokenizerConfig("sentencepiece", 300), network=network)
    (tmp_path / "run").mkdir()
    task = make_task(validate(config), made)
    write_manifest(tmp_path / "run", config, made, data="")
    save_weights(task, Run(tmp_path / "run").best_weights, made.fingerprint)
    with pytest.raises(UserError, match="T5's form has positions=relative.*Received: positions=rotary.*copy=True"):
        export_checkpoint(tmp_path / "run", tmp_path / "checkpoint")


BAD = {
    "umt5": (lambda f: edit(f, "config.json", model_type="umt5"), "one of .*mt5. Received: 'umt5'"),
    "a value of its own": (lambda f: edit(f, "config.json", pos_dropout=0.5), "pos_dropout = 0.5 is not known"),
    "another activation": (
        lambda f: edit(f, "config.json", feed_forward_proj="gated-relu"),
        "feed_forward_proj is supported as relu, gated-gelu, gated-silu. Received: 'gated-relu'",
    ),
    "two activations": (
        lambda f: edit(f, "config.json", dense_act_fn="relu"),
        "dense_act_fn is supported as 'gelu_new'",
    ),
    "an encoder": (
        lambda f: edit(f, "config.json", is_encoder_decoder=False),
        "is_encoder_decoder is supported as True",
    ),
    "another start": (
        lambda f: edit(f, "config.json", decoder_start_token_id=101),
        "decoder_start_token_id is supported",
    ),
    "another end": (lambda f: edit(f, "generation_config.json", eos_token_id=102), "eos_token_id is supported as 1"),
    "one kind of distance": (
        lambda f: edit(f, "config.json", relative_attention_max_distance=4),
        "relative_distance more than half",
    ),
    "no head width": (lambda f: edit(f, "config.json", d_kv=None), "must have d_kv"),
    "more blocks": (lambda f: edit(f, "config.json", num_layers=3), "Missing: encoder.block.2"),
    "fewer blocks": (lambda f: edit(f, "config.json", num_decoder_layers=1), "Left over: decoder.block.1"),
    "no head": (
        lambda f: (
            edit(f, "config.json", tie_word_embeddings=False)
            or edit_tensors(f, lambda tensors: tensors.pop("lm_head.weight"))
        ),
        "Missing: lm_head.weight",
    ),
    "another head than the embedding": (
        lambda f: edit(f, "config.json", scale_decoder_outputs=True),
        "lm_head.weight must equal shared.weight",
    ),
    "an old mT5 with the factor": (
        lambda f: edit(f, "config.json", model_type="mt5", transformers_version="4.30.0"),
        "mT5 has a head apart",
    ),
    "a small embedding": (lambda f: edit(f, "config.json", vocab_size=1050), "and an embedding of 1050 rows"),
    "word pieces": (
        lambda f: [(f / "spiece.model").unlink(), (f / "vocab.txt").write_text("[PAD]\n")],
        "must have its spiece.model or tokenizer.json",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_understood_is_refused(imported, name, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(imported("t5 v1.1").folder, folder, ignore=shutil.ignore_patterns("run"))
    change, message = BAD[name]
    change(folder)
    with pytest.raises(UserError, match=message):
        import_checkpoint(folder, tmp_path / "run", say=lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_older_files_say_the_same(imported, tmp_path):
    """Before transformers 5: fewer values, the embedding under all its names, and a tensor that was never used."""
    case, folder = imported("t5"), tmp_path / "older"
    shutil.copytree(case.folder, folder, ignore=shutil.ignore_patterns("run"))
    (folder / "generation_config.json").unlink()
    kept = ("model_type", "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "is_encoder_decoder")
    kept += ("relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon")
    described = {
        name: value for name, value in json.loads((folder / "config.json").read_text()).items() if name in kept
    }
    written = {
        "num_beams": 4,
        "length_penalty": 0.6,
        "no_repeat_ngram_size": 2,
    }  # how texts are generated stood there, too
    (folder / "config.json").write_text(json.dumps({**described, "n_positions": 512, "output_past": True, **written}))

    def repeat(tensors):
        for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors["shared.weight"]
        tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = np.ones((8, 4), "float32")

    edit_tensors(folder, repeat)
    task = open_checkpoint(folder)
    assert task.config == case.task.config
    assert task.config.lengths == LengthConfig(max_source_length=512, max_answer_length=128)
    inputs = {"source_ids": SOURCE, "target_ids": TARGET}
    np.testing.assert_array_equal(task.model(inputs), case.task.model(inputs))
    said = []
    import_checkpoint(folder, tmp_path / "run", say=said.append)
    assert said[-1] == (
        "Left out of config.json, so that transformers may write other texts: "
        "no_repeat_ngram_size = 2 (generate.py --no-repeat-ngram-size); num_beams = 4 (generate.py --beams, --length-penalty)"
    )
