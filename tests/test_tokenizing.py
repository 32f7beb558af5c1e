"""Documents into prepared arrays: the rows, the same from any number of processes, and a clean end when something fails."""

import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.data import parallel
from keras_llm.data.parallel import ordered_map
from keras_llm.data.prepared import Prepared
from keras_llm.errors import UserError
from keras_llm.text import TOKENIZERS, load_tokenizer
from keras_llm.text.encoding import DocumentEncoder
from keras_llm.training import tokenizing
from keras_llm.training.tokenizing import prepare_documents

TEXTS = ["床前明月光，疑是地上霜。", "To be, or not to be", "", "a\nb 😀", "词 word"]


@pytest.fixture(scope="module", params=sorted(kind for kind, cls in TOKENIZERS.items() if cls.trained))
def directory(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / request.param
    TOKENIZERS[request.param].train(TEXTS, 300).save(path)
    return path


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "characters"
    TOKENIZERS["characters"].train(TEXTS, 300).save(path)
    return path


def test_rows_are_start_ids_end(directory, tmp_path):
    prepared = prepare_documents(iter(TEXTS), directory, tmp_path / "prepared", "print")
    assert len(prepared) == len(TEXTS) and prepared.fingerprint == "print"
    assert prepared.features["token_ids"].dtype == np.uint16
    for i, ids in enumerate(load_tokenizer(directory).encode(TEXTS).to_list()):
        assert prepared.row(i)["token_ids"].tolist() == [2, *ids, 3]


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.text(st.characters(codec="utf-8")), max_size=6))
def test_encoder_gives_values_and_lengths(characters, texts):
    encoder = _encoders[0] if _encoders else DocumentEncoder(load_tokenizer(characters))
    _encoders[:] = [encoder]
    values, lengths = encoder(texts)["token_ids"]
    rows = [row.tolist() for row in np.split(values, np.cumsum(lengths)[:-1])] if texts else []
    assert rows == [[2, *ids, 3] for ids in load_tokenizer(characters).encode(tf.constant(texts, tf.string)).to_list()]


_encoders: list = []


def test_large_vocabularies_need_int32():
    for size, dtype in ((65_536, np.uint16), (65_537, np.int32)):
        words = TOKENIZERS["words"]([f"w{i}" for i in range(size - 5)])
        values, _ = DocumentEncoder(words)([f"w{size - 6}"])["token_ids"]
        assert values.dtype == dtype and values.tolist() == [2, size - 1, 3]


def test_no_documents(characters, tmp_path):
    with pytest.raises(UserError, match="At least one example must be prepared"):
        prepare_documents([], characters, tmp_path / "prepared", "x")
    with pytest.raises(UserError, match="processes must be at least 1"):
        prepare_documents(TEXTS, characters, tmp_path / "prepared", "x", processes=0)


@pytest.mark.parametrize("encoder", [("documents",), ("sentences", "none")])
def test_two_processes_give_what_one_gives(characters, tmp_path, monkeypatch, capsys, encoder):
    monkeypatch.setattr(tokenizing, "BATCH", 64)
    monkeypatch.setattr(tokenizing, "WORTH_PROCESSES", 256)
    texts = [f"{text} {i}" for i in range(60) for text in TEXTS]
    total = sum(len(text.encode()) for text in texts)
    one = prepare_documents(texts, characters, tmp_path / "one", "x", processes=1, encoder=encoder)
    two = prepare_documents(texts, characters, tmp_path / "two", "x", 2, total, show_progress=True, encoder=encoder)
    assert "Tokenizing: 100%" in capsys.readouterr().err
    # Sentences of documents without any are no rows.
    assert len(one) == len(two) == (len(texts) if encoder == ("documents",) else len([t for t in texts if t.strip()]))
    for name in one.features:
        assert np.array_equal(one.features[name], two.features[name]) and np.array_equal(
            one.splits[name], two.splits[name]
        )

    def broken():
        yield from texts[:100]
        raise UserError("a.txt:7: text must be UTF-8.")

    with pytest.raises(UserError, match="a.txt:7"):
        prepare_documents(broken(), characters, tmp_path / "two", "x", processes=1)
    assert len(Prepared.open(tmp_path / "two")) == len(one)  # what was there before is
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_items_are_read_no_further_than_needed():
    taken = itertools.count()
    items = ("x" for _ in iter(lambda: next(taken), None))
    results = ordered_map("operator:methodcaller", ("upper",), items, processes=2)
    assert [next(results) for _ in range(5)] == ["X"] * 5
    results.close()
    assert next(taken) <= 5 + 2 * (1 + parallel.AHEAD)


def test_failures_reach_the_caller():
    def broken():
        yield {"b": 1}
        raise UserError("a.txt:7: text must be UTF-8.")

    with pytest.raises(UserError, match="a.txt:7"):
        list(ordered_map("operator:itemgetter", ("b",), broken(), processes=1))
    with pytest.raises(KeyError, match="b"):
        list(ordered_map("operator:itemgetter", ("b",), [{"a": 1}], processes=1))
    with pytest.raises(UserError, match="The data file must exist. Received: none.txt"):  # making the function fails
        list(ordered_map("keras_llm.data.documents:existing", (["none.txt"],), ["x"], processes=1))
    with pytest.raises(UserError, match="processes must stay alive. Received: the end of one"):
        list(ordered_map("operator:methodcaller", ("__call__", 9), [os._exit], processes=1))


# What a shell starts in the background ignores Ctrl-C, and so would everything started from there.
SCRIPT = """
import signal, sys, time
from keras_llm.data.parallel import ordered_map
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for result in ordered_map("operator:methodcaller", ("__call__",), iter(lambda: __import__("os").getpid, 0), 2):
            print(result, flush=True)
            time.sleep(0.05)
    except KeyboardInterrupt:
        print("stopped", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them(tmp_path, how):
    """Ctrl-C, which a terminal sends to all of them, and a kill, which only one gets."""
    (tmp_path / "script.py").write_text(SCRIPT)
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    workers = {int(process.stdout.readline()) for _ in range(8)}
    (os.killpg if how == signal.SIGINT else os.kill)(process.pid, how)
    output, errors = process.communicate(timeout=30)
    if how == signal.SIGINT:
        assert process.returncode == 0 and output.endswith("stopped\n") and "Traceback" not in errors
    deadline = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers and not any(map(alive, workers))


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
