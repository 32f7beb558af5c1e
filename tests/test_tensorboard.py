import io
import json
import math
import os
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorboard import program
from tensorboard.backend.event_processing import plugin_event_accumulator as loader
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray

from keras_llm.errors import UserError
from keras_llm.training import pictures
from keras_llm.training.pictures import INK, PAPER, STRONGEST, visible
from keras_llm.training.tensorboard import PROJECTOR_ROWS, TensorBoard, attention_image, markdown_table


def read(directory):
    """What TensorBoard's own loader makes of the directory."""
    accumulator = loader.EventAccumulator(str(directory), size_guidance={loader.TENSORS: 0})
    accumulator.Reload()
    return accumulator


def points(accumulator, name):
    return [(event.step, float(make_ndarray(event.tensor_proto))) for event in accumulator.Tensors(name)]


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


# Events


def test_scalars_come_back_with_their_steps(tmp_path):
    with TensorBoard(tmp_path / "new" / "run") as board:
        board.scalar("train/loss", 2.5, 1)
        board.scalars({"train/loss": np.float32(1.25), "评估/f1": 50}, step=2)
        board.scalar("train/loss", math.nan, 3)
    run = read(tmp_path / "new" / "run")
    assert points(run, "train/loss")[:2] == [(1, 2.5), (2, 1.25)]
    assert math.isnan(points(run, "train/loss")[2][1])
    assert points(run, "评估/f1") == [(2, 50.0)]
    assert run.SummaryMetadata("train/loss").plugin_data.plugin_name == "scalars"


def test_flushed_events_can_be_read_while_the_run_goes_on(tmp_path):
    board = TensorBoard(tmp_path)
    board.scalar("loss", 1.0, 1)
    board.flush()
    assert points(read(tmp_path), "loss") == [(1, 1.0)]
    board.scalar("loss", 0.5, 2)
    board.close()
    assert points(read(tmp_path), "loss") == [(1, 1.0), (2, 0.5)]


def test_events_reach_the_disk_without_a_flush(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_llm.training.tensorboard.FLUSH_SECONDS", 0.0)
    board = TensorBoard(tmp_path)
    board.scalar("loss", 1.0, 1)
    assert points(read(tmp_path), "loss") == [(1, 1.0)]
    board.close()


def test_replayed_steps_show_once(tmp_path):
    with TensorBoard(tmp_path) as board:
        for step in range(10):
            board.scalar("loss", 100.0 + step, step)
            board.text("answers", "first", step)
    [first] = tmp_path.iterdir()
    os.truncate(first, first.stat().st_size - 5)  # killed in the middle of a record
    kept = first.read_bytes()
    with TensorBoard(tmp_path, purge_step=6) as board:
        for step in range(6, 12):
            board.scalar("loss", 200.0 + step, step)
    run = read(tmp_path)
    assert points(run, "loss") == [(s, 100.0 + s) for s in range(6)] + [(s, 200.0 + s) for s in range(6, 12)]
    assert [event.step for event in run.Tensors("answers")] == list(range(6))
    assert first.read_bytes() == kept


def test_images_are_png_with_their_size(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (4, 7, 3), dtype=np.uint8)
    with TensorBoard(tmp_path) as board:
        board.image("picture", array, 1)
        board.image("picture", png(array), 2)
    run = read(tmp_path)
    assert run.SummaryMetadata("picture").plugin_data.plugin_name == "images"
    for event in run.Tensors("picture"):
        width, height, data = make_ndarray(event.tensor_proto)
        assert (width, height) == (b"7", b"4")
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), array)


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)])
def test_other_arrays_are_no_images(tmp_path, array):
    with TensorBoard(tmp_path) as board, pytest.raises(ValueError, match=r"uint8 \[height, width, 3\]. Received"):
        board.image("picture", array, 1)


def test_a_directory_that_cannot_be_written_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="must be writable. Received: .*file"):
        TensorBoard(tmp_path / "file" / "run")


# Text


class Cells(HTMLParser):
    """The texts of a table's cells, row by row; line breaks count as blanks."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True
        elif tag == "br":
            self.handle_data(" ")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def one_line(text):
    return " ".join(text.split())


@settings(deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from("|\n*_`#<>&[]()!\\")), min_size=1)
)
def test_any_text_in_a_table_is_shown_as_it_is(texts):
    rows = [[text, "x"] for text in texts]
    cells = Cells(markdown_to_safe_html(markdown_table(["问题", "a|b"], rows))).rows
    assert cells[0] == ["问题", "a|b"]
    assert [[one_line(cell) for cell in row] for row in cells[1:]] == [[one_line(text), "x"] for text in texts]


def test_a_table_of_answers(tmp_path):
    with TensorBoard(tmp_path) as board:
        board.table("answers", ["question", "predicted", "score"], [["谁|提出\n的？", "<s> *LSTM*", 0.5]], step=3)
    [event] = read(tmp_path).Tensors("answers")
    html = markdown_to_safe_html(make_ndarray(event.tensor_proto).item().decode())
    assert event.step == 3
    assert "<br>" in html
    assert Cells(html).rows == [["question", "predicted", "score"], ["谁|提出 的？", "<s> *LSTM*", "0.5"]]


# Hyper-parameters


def hparams(directory, tag):
    content = read(directory).SummaryMetadata(tag).plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)


def test_hyper_parameters_are_flat_and_typed(tmp_path):
    settings = {
        "task": "reading",
        "model": {"width": 128, "tied": True, "dropout": 0.1, "memory": {"kind": "双向"}},
        "time_budget": None,
        "betas": (0.9, 0.98),
        "clip": math.inf,
    }
    with TensorBoard(tmp_path) as board:
        board.hyper_parameters(settings)
        board.hyper_parameters({"task": "a later sitting's"}, {"final/f1": 61.5}, step=20)
    start = hparams(tmp_path, hparams_metadata.SESSION_START_INFO_TAG).session_start_info
    assert start.group_name == str(tmp_path)
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert values == {
        "task": "reading",
        "model.width": 128.0,
        "model.tied": True,
        "model.dropout": 0.1,
        "model.memory.kind": "双向",
        "time_budget": "None",
        "betas": "(0.9, 0.98)",
        "clip": "inf",
    }
    assert hparams(tmp_path, hparams_metadata.SESSION_END_INFO_TAG).session_end_info.status == 1  # success
    assert points(read(tmp_path), "final/f1") == [(20, 61.5)]


# Projector


def test_embeddings_are_the_most_frequent_tokens(tmp_path):
    size = PROJECTOR_ROWS + 5
    table = np.arange(size * 2, dtype=np.float64).reshape(size, 2)
    with TensorBoard(tmp_path) as board:
        board.embeddings("词/tokens", table, [f"词{i}" for i in range(size)], frequencies=range(size))
    labels = (tmp_path / "词_tokens.tsv").read_text(encoding="utf-8").splitlines()
    vectors = np.fromfile(tmp_path / "词_tokens.bytes", np.float32).reshape(-1, 2)
    assert len(labels) == len(vectors) == PROJECTOR_ROWS
    assert (labels[0], labels[-1]) == (f"词{size - 1}", "词5")
    np.testing.assert_allclose(vectors, table[:4:-1], rtol=1e-4)
    assert sorted(os.listdir(tmp_path))[-3:] == ["projector_config.pbtxt", "词_tokens.bytes", "词_tokens.tsv"]


def test_labels_are_one_line_each(tmp_path):
    labels = ["a\tb", "\n", "\r\u2028\x00", " ", "", "  ", "中 文", "😀", "𠮷"]
    with TensorBoard(tmp_path) as board:
        board.embeddings("tokens", np.ones((len(labels), 3)), labels)
    written = (tmp_path / "tokens.tsv").read_text(encoding="utf-8").split("\n")
    assert written == [r"a\tb", r"\n", r"\r\u2028\x00", "␣", "∅", "␣␣", "中 文", "😀", "𠮷", ""]


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_visible_label_prints_on_one_line(label):
    assert visible(label).isprintable()
    assert "\t" not in visible(label)
    assert len(visible(label).splitlines()) == 1


def test_embeddings_of_several_names_and_sittings(tmp_path):
    with TensorBoard(tmp_path) as board:
        board.embeddings("tokens", np.zeros((2, 3)), ["a", "b"])
        board.embeddings("positions", np.zeros((4, 3)), list("0123"))
    with TensorBoard(tmp_path) as board:
        board.embeddings("tokens", np.zeros((3, 5)), ["a", "b", "c"])
    config = (tmp_path / "projector_config.pbtxt").read_text(encoding="utf-8")
    assert config.count("embeddings {") == 2
    assert config.count('tensor_name: "tokens"') == 1
    assert "tensor_shape: 3\n  tensor_shape: 5" in config


@pytest.mark.parametrize(
    ("shape", "labels", "frequencies"),
    [((2,), ["a", "b"], None), ((2, 3), ["a"], None), ((2, 3), ["a", "b"], [1]), ((0, 3), [], None)],
)
def test_embeddings_that_do_not_fit(tmp_path, shape, labels, frequencies):
    with TensorBoard(tmp_path) as board, pytest.raises(ValueError, match="V labels and frequencies. Received"):
        board.embeddings("tokens", np.zeros(shape), labels, frequencies)
    assert not (tmp_path / "projector_config.pbtxt").exists()


# The attention picture


def cells(image, rows, columns):
    """The colour in the middle of each cell, found from the grid: the picture's only pixels of the lines' grey."""
    grey = (image == 225).all(axis=2)
    ys, xs = np.where(grey.sum(axis=1) > grey.shape[1] // 3)[0], np.where(grey.sum(axis=0) > 10)[0]
    assert (len(ys), len(xs)) == (rows, columns)
    cell = (xs[1] - xs[0]) // 2
    return image[np.ix_(ys + cell, xs + cell)]


def test_the_largest_weight_is_the_darkest():
    weights = np.array([[0.0, 0.4, 0.2], [0.1, 0.0, 0.3]])
    image = attention_image(weights, ["谁", "提出"], ["he", "，", "翻译"])
    assert image.dtype == np.uint8
    paper, strongest = np.array(PAPER), np.array(STRONGEST)
    expected = paper + (weights / 0.4)[:, :, None] * (strongest - paper)
    np.testing.assert_allclose(cells(image, 2, 3), expected, atol=1)


def test_nothing_attended_to_is_white():
    assert (cells(attention_image(np.zeros((2, 2)), "ab", "cd"), 2, 2) == 255).all()


def ink(label, **changes):
    """The dark pixels of a picture with this one row label."""
    image = attention_image(np.zeros((1, 1)), [label], ["x"], **changes)
    return (image == INK).all(axis=2)


def test_chinese_labels_are_drawn():
    glyphs = [pictures._text(label, pictures._font(20)) for label in ("谁", "注", "𠮷", "？")]
    missing = pictures._text("\U0010ffff", pictures._font(20))
    images = {np.asarray(glyph).tobytes() for glyph in glyphs}
    assert len(images) == 4  # four different glyphs, not four boxes
    assert all(glyph.width < missing.width for glyph in glyphs)  # and no code points in their place
    assert ink("谁").any()


def test_characters_that_the_font_lacks_are_written_as_code_points():
    def mask(label):
        return np.asarray(pictures._text(label, pictures._font(20)))

    np.testing.assert_array_equal(mask("a😀b"), mask("aU+1F600b"))
    np.testing.assert_array_equal(mask("\t"), mask(r"\t"))
    np.testing.assert_array_equal(mask("x" * 40), mask("x" * 17 + "…"))


def test_without_the_font_the_picture_says_so(monkeypatch):
    with_font = attention_image(np.zeros((1, 1)), ["谁"], ["x"])
    for cached in (pictures._font, pictures._drawable):
        cached.cache_clear()
    monkeypatch.setattr(pictures, "font_path", lambda: None)
    try:
        without = attention_image(np.zeros((1, 1)), ["谁"], ["x"])
    finally:
        for cached in (pictures._font, pictures._drawable):
            cached.cache_clear()
    assert without.shape[1] > with_font.shape[1] + 200  # the notice below; the label is a code point


def test_labels_that_are_too_wide_are_turned_or_stacked():
    font = pictures._font(20)
    short, latin, chinese = (pictures._narrow(label, font, 30) for label in ("词", "Transformer", "注意力机制"))
    assert short.width <= 30 and short.height < 40
    assert latin.size == pictures._text("Transformer", font).size[::-1]
    assert chinese.width == short.width and chinese.height > 4 * 20
    np.testing.assert_array_equal(  # the first character stands upright on top
        np.asarray(chinese)[:20], np.asarray(pictures._text("注", font))[:20]
    )


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (120, 2)])
def test_pictures_of_any_shape(shape):
    weights = np.random.default_rng(0).random(shape)
    image = attention_image(weights, ["长标签" * 20] * shape[0], ["Long label" * 20] * shape[1], "question", "context")
    assert image.shape[0] > 16 * shape[0] and image.shape[1] > 16 * shape[1]
    assert image.size < 30_000_000


@pytest.mark.parametrize(
    ("weights", "rows", "columns", "message"),
    [
        (np.zeros((2, 2)), "a", "bc", "with a label each"),
        (np.zeros(2), "ab", "", "with a label each"),
        (np.zeros((0, 2)), "", "ab", "with a label each"),
        (np.array([[-0.1]]), "a", "b", "at least 0. Received: minimum -0.1"),
        (np.array([[np.nan]]), "a", "b", "finite"),
    ],
)
def test_weights_that_cannot_be_drawn(weights, rows, columns, message):
    with pytest.raises(ValueError, match=message):
        attention_image(weights, list(rows), list(columns))


# The whole: no TensorFlow, and a real TensorBoard


def write_run(directory):
    labels = ["\t", "谁", "😀", *(f"token{i}" for i in range(20))]
    vectors = np.random.default_rng(0).normal(size=(len(labels), 4))
    with TensorBoard(directory) as board:
        board.hyper_parameters({"model": {"kind": "lstm"}, "training": {"learning_rate": 0.001}})
        for step in range(8):
            board.scalar("train/loss", 100.0 + step, step)
    with TensorBoard(directory, purge_step=5) as board:
        for step in range(5, 10):
            board.scalar("train/loss", 200.0 + step, step)
        board.table("answers", ["question", "predicted"], [["谁 | 提出？", "巴赫达瑙"]], 9)
        board.image("attention", attention_image(np.eye(2), ["谁", "提出"], ["he", "did"]), 9)
        board.embeddings("tokens", vectors, labels)
        # Read as text these would be numbers, or break the reader: bytes that are all valid UTF-8, with line ends.
        board.embeddings("text", np.frombuffer(b"1\n2\n" * 12, np.float32).reshape(4, 3), list("abcd"))
        board.hyper_parameters({"model": {"kind": "lstm"}}, {"final/f1": 61.5}, 9)
    return vectors, labels


def test_tensorflow_stays_out(tmp_path):
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
        "import numpy as np; from keras_llm.training.tensorboard import TensorBoard, attention_image;"
        "board = TensorBoard(sys.argv[2]); board.scalars({'loss': 1.0}, 1); board.text('t', 'x', 1);"
        "board.table('t', ['q'], [['谁']], 1); board.image('i', attention_image(np.eye(1), ['谁'], ['a']), 1);"
        "board.hyper_parameters({'a': 1}, {'f1': 1.0}, 1); board.embeddings('e', np.eye(2), ['a', 'b']); board.close();"
        "sys.exit('tensorflow' in sys.modules)"
    )
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    subprocess.run([sys.executable, "-c", code, root, str(tmp_path)], check=True, timeout=100)
    assert points(read(tmp_path), "loss") == [(1, 1.0)]


@pytest.mark.parametrize("load_fast", ["auto", "false"])
def test_a_real_tensorboard_shows_it(tmp_path, load_fast):
    vectors, labels = write_run(tmp_path / "reader")
    server = program.TensorBoard()
    server.configure(argv=[None, "--logdir", str(tmp_path), "--port", "0", "--load_fast", load_fast])
    data = server.launch() + "data"

    def get(path, body=None, **query):
        request = urllib.request.Request(
            f"{data}/{path}?{urllib.parse.urlencode(query)}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # the last thing written is read last
        scalars = json.loads(get("plugin/scalars/tags"))
        if "final/f1" in scalars.get("reader", {}):
            break
        time.sleep(0.2)
    assert set(scalars["reader"]) == {"train/loss", "final/f1"}

    curve = json.loads(get("plugin/scalars/scalars", run="reader", tag="train/loss"))
    assert [(step, value) for _, step, value in curve] == [
        *((step, 100.0 + step) for step in range(5)),
        *((step, 200.0 + step) for step in range(5, 10)),
    ]

    [text] = json.loads(get("plugin/text/text", run="reader", tag="answers"))
    assert Cells(text["text"]).rows == [["question", "predicted"], ["谁 | 提出？", "巴赫达瑙"]]

    [image] = json.loads(get("plugin/images/images", run="reader", tag="attention", sample=0))
    picture = get("plugin/images/individualImage", **dict(urllib.parse.parse_qsl(image["query"])))
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(picture))), attention_image(np.eye(2), ["谁", "提出"], ["he", "did"])
    )

    [group] = json.loads(
        get(
            "plugin/hparams/session_groups",
            {"experimentName": "", "allowedStatuses": ["STATUS_SUCCESS"], "startIndex": 0, "sliceSize": 10},
        )
    )["sessionGroups"]
    assert group["name"] == str(tmp_path / "reader")
    assert group["hparams"] == {"model.kind": "lstm", "training.learning_rate": 0.001}
    assert {metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]}["final/f1"] == 61.5

    assert json.loads(get("plugin/projector/runs")) == ["reader"]
    shown = get("plugin/projector/metadata", run="reader", name="tokens").decode().splitlines()
    assert shown == [r"\t", *labels[1:]]
    tensor = np.frombuffer(get("plugin/projector/tensor", run="reader", name="tokens"), np.float32).reshape(-1, 4)
    np.testing.assert_allclose(tensor, vectors, rtol=1e-4)
    assert len(get("plugin/projector/tensor", run="reader", name="text")) == 4 * 3 * 4
