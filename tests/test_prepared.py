"""Prepared data: round trips through the disk, and refusal of everything that is not whole."""

import dataclasses
import errno
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.data import prepared as prepared_module
from keras_llm.data.prepared import Prepared, fingerprint
from keras_llm.errors import UserError

ROWS = [
    {"ids": np.array(ids, "int32"), "start": np.int32(i), "box": np.full((2, 3), i, "float32")}
    for i, ids in enumerate(([5, 6, 7], [], [8]))
]

VALUES = {
    "bool": st.booleans(),
    "uint16": st.integers(0, 2**16 - 1),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float32": st.floats(width=32, allow_nan=False),
}


@st.composite
def tables(draw):
    """Rows of one schema: up to four features, each a scalar, a row of varying length or a fixed matrix."""
    names = draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
    kinds = [
        (draw(st.sampled_from(sorted(VALUES))), draw(st.sampled_from(["scalar", "varying", "fixed"]))) for _ in names
    ]
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        row = {}
        for name, (dtype, kind) in zip(names, kinds, strict=True):
            size = {"scalar": 1, "varying": draw(st.integers(0, 5)), "fixed": 4}[kind]
            values = np.array(draw(st.lists(VALUES[dtype], min_size=size, max_size=size)), dtype)
            row[name] = {"scalar": lambda v: v[0], "varying": lambda v: v, "fixed": lambda v: v.reshape(2, 2)}[kind](
                values
            )
        rows.append(row)
    return rows


@settings(max_examples=60, deadline=None)
@given(tables())
def test_every_row_comes_back(rows):
    with tempfile.TemporaryDirectory() as directory:
        prepared = Prepared.write(Path(directory) / "data", iter(rows), "print")
        assert len(prepared) == len(rows)
        for i, row in enumerate(rows):
            stored = prepared.row(i)
            assert stored.keys() == row.keys()
            for name, value in row.items():
                assert stored[name].dtype == value.dtype
                np.testing.assert_array_equal(stored[name], value)
        for name in prepared.splits:
            assert prepared.lengths(name).tolist() == [len(row[name]) for row in rows]


def test_rows_are_written_as_they_come(tmp_path):
    """No row is kept: each one may be freed before the next is made."""
    buffer = np.zeros(3, "int32")

    def rows():
        for i in range(1000):
            buffer[:] = i
            yield {"ids": buffer}

    prepared = Prepared.write(tmp_path / "data", rows(), "print")
    assert prepared.features["ids"].tolist() == [i for i in range(1000) for _ in range(3)]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 12), max_size=3).map(sorted),
)
def test_blocks_give_what_rows_give(rows, cuts):
    blocks = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    arrays = [(np.array(sum(block, []), "uint16"), np.array([len(row) for row in block], "int64")) for block in blocks]
    with tempfile.TemporaryDirectory() as directory:
        one = Prepared.write(f"{directory}/rows", ({"ids": np.array(row, "uint16")} for row in rows), "print")
        other = Prepared.write_blocks(f"{directory}/blocks", ({"ids": array} for array in arrays), "print")
        assert len(one) == len(other) == len(rows)
        for file in ("ids.npy", "ids.splits.npy", "prepared.json"):
            assert Path(directory, "rows", file).read_bytes() == Path(directory, "blocks", file).read_bytes()


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ((np.zeros(3, "uint16"), [1, 1]), "lengths must sum up"),
        ((np.zeros(3, "uint16"), [4, -1]), "lengths must sum up"),
        ((np.zeros(3, "uint16"), []), "lengths must sum up"),
        ((np.zeros((3, 1), "uint16"), [3]), "lengths must sum up"),
        ((np.zeros(3, "int32"), [3]), "dtype and shape as in the first row"),
    ],
)
def test_blocks_must_fit(tmp_path, block, message):
    with pytest.raises(ValueError, match=message):
        Prepared.write_blocks(tmp_path / "data", [{"ids": (np.zeros(2, "uint16"), [2])}, {"ids": block}], "print")
    assert not list(tmp_path.iterdir())


def test_features_of_a_block_have_the_same_rows(tmp_path):
    block = {"ids": (np.zeros(3, "uint16"), [1, 2]), "is_word": (np.ones(3, bool), [3])}
    with pytest.raises(ValueError, match="as many rows of each feature. Received: {'ids': 2, 'is_word': 1}"):
        Prepared.write_blocks(tmp_path / "data", [block], "print")


def test_no_blocks(tmp_path):
    with pytest.raises(UserError, match="At least one example must be prepared"):
        Prepared.write_blocks(tmp_path / "data", [], "print")


def test_arrays_are_mapped_and_read_only(tmp_path):
    prepared = Prepared.write(tmp_path / "data", ROWS, "print")
    assert isinstance(prepared.features["ids"].base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        prepared.row(0)["ids"][0] = 1
    with pytest.raises(IndexError, match="from 0 to 2. Received: 3"):
        prepared.row(3)
    with pytest.raises(ValueError, match=r"\['ids'\]. Received: 'start'"):
        prepared.lengths("start")


def test_write_replaces_prepared_data_and_nothing_else(tmp_path):
    target = tmp_path / "data"
    old = Prepared.write(target, ROWS, "old")
    assert len(Prepared.write(target, ROWS[:1], "new")) == 1
    assert Prepared.open(target).fingerprint == "new"
    assert old.row(0)["ids"].tolist() == [5, 6, 7]  # an open one keeps what it had
    assert [path.name for path in tmp_path.iterdir()] == ["data"]

    (tmp_path / "empty").mkdir()
    assert len(Prepared.write(tmp_path / "empty", ROWS, "x")) == 3
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("other", "file"):
        with pytest.raises(UserError, match="Only prepared data is overwritten"):
            Prepared.write(tmp_path / name, ROWS, "x")
    assert (tmp_path / "other" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "mine"


def test_a_failing_write_leaves_what_was_there(tmp_path, monkeypatch):
    def interrupted():
        yield ROWS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Prepared.write(tmp_path / "data", interrupted(), "x")
    assert list(tmp_path.iterdir()) == []

    Prepared.write(tmp_path / "data", ROWS, "old")
    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:

            def full(*args):
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(prepared_module.os, function, full)
            with pytest.raises(UserError, match="No space left on device. Free space"):
                Prepared.write(tmp_path / "data", ROWS[:1], "new")
        assert len(Prepared.open(tmp_path / "data", "old")) == 3
        assert [path.name for path in tmp_path.iterdir()] == ["data"]

    real_replace = prepared_module.os.replace

    def second_fails(source, target):
        if ".tmp" in str(source):
            raise OSError(errno.EIO, "Input/output error")
        real_replace(source, target)

    monkeypatch.setattr(prepared_module.os, "replace", second_fails)
    with pytest.raises(UserError, match="Input/output error"):
        Prepared.write(tmp_path / "data", ROWS[:1], "new")
    assert len(Prepared.open(tmp_path / "data", "old")) == 3


def test_a_full_disk_is_a_users_error():
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    column = prepared_module._Column(Path("/dev/full"), np.dtype("int32"), ())
    with pytest.raises(UserError, match="No space left"), prepared_module._disk_errors(Path("data")):
        column.extend(np.zeros(10**6, "int32"))
        column.file.flush()
    prepared_module._close_quietly(column)
    assert column.file.closed


@pytest.mark.parametrize(
    "rows, message",
    [
        ([ROWS[0], {"ids": ROWS[0]["ids"]}], "must have the features"),
        ([{"a": np.int32(1)}, {"a": np.int64(1)}], "int64 .* in row 1"),
        ([{"a": np.int32(1)}, {"a": np.ones(1, "int32")}], r"int32 \(1,\) in row 1"),
        ([{"a": np.ones(2, "int32")}, {"a": np.int32(1)}], r"int32 \(\) in row 1"),
        ([{"a": np.ones((2, 2), "int32")}, {"a": np.ones((2, 3), "int32")}], r"\(2, 3\) in row 1"),
        ([{"a": np.float64(1)}], "must be one of bool, uint16.*float64"),
        ([{"../a": np.int32(1)}], "must be an identifier"),
    ],
)
def test_rows_must_fit_the_first_one(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        Prepared.write(tmp_path / "data", rows, "x")
    assert list(tmp_path.iterdir()) == []


def test_no_rows(tmp_path):
    with pytest.raises(UserError, match="At least one example"):
        Prepared.write(tmp_path / "data", [], "x")


def test_fingerprint_is_compared(tmp_path):
    Prepared.write(tmp_path / "data", ROWS, fingerprint("a"))
    assert len(Prepared.open(tmp_path / "data", fingerprint("a"))) == 3
    with pytest.raises(UserError, match="made from others .*Delete that directory"):
        Prepared.open(tmp_path / "data", fingerprint("b"))


def test_missing_and_half_written(tmp_path):
    with pytest.raises(UserError, match="no .*nowhere"):
        Prepared.open(tmp_path / "nowhere")
    for name in ("prepared.json", "ids.npy", "ids.splits.npy", "box.npy"):
        Prepared.write(tmp_path / "data", ROWS, "x")
        (tmp_path / "data" / name).unlink()
        with pytest.raises(UserError, match=f"no .*{name}. Prepare the data again"):
            Prepared.open(tmp_path / "data")
        shutil.rmtree(tmp_path / "data")


def test_other_format(tmp_path):
    Prepared.write(tmp_path / "data", ROWS, "x")
    description = json.loads((tmp_path / "data" / "prepared.json").read_text())
    (tmp_path / "data" / "prepared.json").write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(UserError, match="must have format 1. Received: 99"):
        Prepared.open(tmp_path / "data")


def test_splits_that_do_not_fit_are_refused(tmp_path):
    Prepared.write(tmp_path / "data", ROWS, "x")
    for splits in ([0, 3, 3, 5], [1, 3, 3, 4], [0, 4, 3, 4]):
        np.save(tmp_path / "data" / "ids.splits.npy", np.array(splits, "int64"))
        with pytest.raises(UserError, match="row splits of ids"):
            Prepared.open(tmp_path / "data")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared") / "data"
    Prepared.write(directory, ROWS, "x")
    return directory


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_cut_or_lengthened_files_are_refused(whole, data):
    with tempfile.TemporaryDirectory() as directory:
        damaged = shutil.copytree(whole, Path(directory) / "data")
        file = damaged / data.draw(st.sampled_from(sorted(path.name for path in whole.iterdir())))
        content = file.read_bytes()
        tail = data.draw(st.binary(min_size=1, max_size=9).filter(bytes.strip))
        cut = data.draw(st.integers(0, len(content.rstrip()) - 1))
        file.write_bytes(data.draw(st.sampled_from([content[:cut], content + tail])))
        with pytest.raises(UserError, match="must be whole"):
            Prepared.open(damaged)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_wrong_byte_never_gives_a_traceback(whole, data):
    with tempfile.TemporaryDirectory() as directory:
        damaged = shutil.copytree(whole, Path(directory) / "data")
        file = damaged / data.draw(st.sampled_from(sorted(path.name for path in whole.iterdir())))
        content = bytearray(file.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        file.write_bytes(content)
        try:
            prepared = Prepared.open(damaged)
        except UserError:
            return
        assert [prepared.row(i).keys() for i in range(len(prepared))] == [ROWS[0].keys()] * 3


@dataclasses.dataclass
class Config:
    width: int
    name: str


def test_fingerprint_of_values():
    assert fingerprint("a") == fingerprint("a") != fingerprint("b")
    assert (
        len({fingerprint(*parts) for parts in (["ab"], ["a", "b"], ["b", "a"], [["a", "b"]], [1], ["1"], [None], [])})
        == 8
    )
    assert fingerprint({"x": 1, "y": 2}) == fingerprint({"y": 2, "x": 1})
    assert fingerprint(Config(1, "名")) == fingerprint(Config(1, "名")) != fingerprint(Config(2, "名"))


def test_fingerprint_of_files(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("one")
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path / "a.txt") == fingerprint(tmp_path / "b.txt") != fingerprint(str(tmp_path / "a.txt"))
    (tmp_path / "b.txt").write_text("two")
    assert fingerprint(tmp_path) != before
    (tmp_path / "b.txt").write_text("one")
    assert fingerprint(tmp_path) == before
    (tmp_path / ".DS_Store").write_text("not read")
    (tmp_path / "picture.png").write_text("nor this")
    assert fingerprint(tmp_path) == before
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    assert fingerprint(tmp_path) != before
    with pytest.raises(UserError, match="No such file"):
        fingerprint(tmp_path / "none.txt")
