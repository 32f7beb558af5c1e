"""Files of checkpoints: each form gives the same numbers, and what is damaged, foreign or incomplete is named."""

import json
import pickle
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from keras_llm.checkpoints.files import Checkpoint, write_tensors
from keras_llm.checkpoints.table import dense, linear, same, to_ours, to_theirs
from keras_llm.errors import UserError

TENSORS = {
    "embed.weight": np.arange(12, dtype="float32").reshape(4, 3),
    "half": np.array([0.5, -2.0], "float16"),
    "brain": np.array([1.5, -3.0], ml_dtypes.bfloat16),
    "double": np.array([0.1]),
    "position_ids": np.arange(5)[None],
    "scalar": np.float32(7.0).reshape(()),
}


def save(path, tensors):
    safetensors.numpy.save_file({name: np.asarray(array, order="C") for name, array in tensors.items()}, path)


def check(checkpoint):
    assert set(checkpoint) == set(TENSORS)
    for name, array in TENSORS.items():
        assert checkpoint.shape(name) == array.shape
        assert checkpoint[name].dtype == ("int64" if name == "position_ids" else "float32")
        np.testing.assert_array_equal(checkpoint[name], array.astype(checkpoint[name].dtype))


def test_safetensors(tmp_path):
    save(tmp_path / "model.safetensors", TENSORS)
    check(Checkpoint(tmp_path))


def test_several_files_and_their_index(tmp_path):
    names = list(TENSORS)
    for part in (0, 1):
        save(tmp_path / f"model-{part}.safetensors", {name: TENSORS[name] for name in names[part::2]})
    index = {"weight_map": {name: f"model-{names.index(name) % 2}.safetensors" for name in names}}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    check(Checkpoint(tmp_path))
    index["weight_map"]["half"] = "model-0.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model-0.safetensors must have the tensor half"):
        Checkpoint(tmp_path)
    index["weight_map"]["half"] = "../model-0.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match="files beside it"):
        Checkpoint(tmp_path)
    index["weight_map"]["half"] = "model-2.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model-2.safetensors is missing"):
        Checkpoint(tmp_path)
    path.write_text("{")
    with pytest.raises(UserError, match="must be JSON"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_pickles_of_pytorch(tmp_path, is_zip):
    torch = pytest.importorskip("torch")
    state = OrderedDict((name, torch.from_numpy(np.array(a, "float32"))) for name, a in TENSORS.items())
    dtypes = {"half": torch.float16, "brain": torch.bfloat16, "double": torch.float64, "position_ids": torch.int64}
    for name, dtype in dtypes.items():
        state[name] = torch.tensor(TENSORS[name].tolist(), dtype=dtype)
    state._metadata = OrderedDict({"": {"version": 1}})
    # Tied weights and views: several tensors in one storage.
    state["tied"] = torch.nn.Parameter(state["embed.weight"])
    state["turned"] = state["embed.weight"].T[1:]
    state["empty"] = torch.zeros(0, 3)
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    assert zipfile.is_zipfile(tmp_path / "pytorch_model.bin") == is_zip
    checkpoint = Checkpoint(tmp_path)
    np.testing.assert_array_equal(checkpoint["tied"], TENSORS["embed.weight"])
    np.testing.assert_array_equal(checkpoint["turned"], TENSORS["embed.weight"].T[1:])
    assert checkpoint["empty"].shape == checkpoint.shape("empty") == (0, 3)
    for name in ("tied", "turned", "empty"):
        del checkpoint._of[name]
    check(checkpoint)
    content = (tmp_path / "pytorch_model.bin").read_bytes()
    for size in (len(content) // 2, len(content) - 30, 10, 0):
        (tmp_path / "pytorch_model.bin").write_bytes(content[:size])
        with pytest.raises(UserError, match=r"pytorch_model.bin is no file of PyTorch tensors, or is damaged"):
            dict(Checkpoint(tmp_path))


class Foreign:
    def __reduce__(self):
        return (open, ("/dev/null",))


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_runs_nothing(tmp_path, is_zip):
    path = tmp_path / "pytorch_model.bin"
    if is_zip:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"a": Foreign()}, 2))
    else:
        path.write_bytes(pickle.dumps(Foreign(), 2))
    with pytest.raises(UserError, match=r"names (_io|io)\.open, which could run anything"):
        Checkpoint(tmp_path)


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    """Else it would show other parts of the memory."""
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.arange(4.0)}, tmp_path / "pytorch_model.bin")
    whole = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(whole) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    main = next(name for name in parts if name.endswith("data.pkl"))
    place = parts[main].index(b"K\x04\x85")  # the shape (4,)
    parts[main] = parts[main][: place + 1] + b"\x64" + parts[main][place + 2 :]
    with zipfile.ZipFile(whole, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match="beyond its storage"):
        Checkpoint(tmp_path)


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="A checkpoint is a folder"):
        Checkpoint(tmp_path / "nothing")
    (tmp_path / "tf_model.h5").write_bytes(b"")
    with pytest.raises(UserError, match=r"Received: only tf_model.h5"):
        Checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    save(path, TENSORS)
    content = path.read_bytes()
    for size in (len(content) - 1, 20, 0):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"model.safetensors is no safetensors file, or not all of it"):
            Checkpoint(tmp_path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 267\n")
    with pytest.raises(UserError, match="git lfs pull"):
        Checkpoint(tmp_path)


def test_quantised_numbers_are_refused(tmp_path):
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"ab")
    with pytest.raises(UserError, match="Received: a of F8_E4M3"):
        Checkpoint(tmp_path)["a"]


def test_written_tensors_are_read_again(tmp_path):
    turned = np.arange(6, dtype="float32").reshape(2, 3).T  # not contiguous
    write_tensors(tmp_path, {"turned": turned})
    np.testing.assert_array_equal(Checkpoint(tmp_path)["turned"], turned)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    with pytest.raises(UserError, match="could not be written"):
        write_tensors(tmp_path / "model.safetensors" / "below", {"turned": turned})


# the table

OURS = {
    "wide/kernel": (2, 6),
    "narrow/kernel": (2, 3),
    "dense/kernel": (3, 2),
    "bias": (6,),
    "embed": (4, 3),
    "conv": (2, 5),
}
TABLE = [
    linear("wide/kernel", "q", "k", outputs=[2, 4]),  # D = 2, F = 6
    linear("narrow/kernel", "down", outputs=[2]),  # D = 3, F = 2
    linear("conv", "conv.weight", outputs=[5], inputs_first=True),
    dense("dense/kernel", "pool"),
    same("bias", "q.bias", "k.bias", sizes=[2, 4]),
    same("embed", "embed.weight"),
]
SHAPES = {
    "q": (2, 2),
    "k": (4, 2),
    "down": (2, 3),
    "conv.weight": (2, 5),
    "pool": (2, 3),
    "q.bias": (2,),
    "k.bias": (4,),
}


def tensors():
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape) for name, shape in {**SHAPES, "embed.weight": (4, 3)}.items()}


def test_a_table_goes_both_ways():
    theirs = tensors()
    ours = to_ours(TABLE, theirs, OURS)
    assert {name: array.shape for name, array in ours.items()} == OURS
    x, y = np.ones(2), np.ones(3)
    np.testing.assert_allclose(x @ ours["wide/kernel"], np.concatenate([theirs["q"] @ x, theirs["k"] @ x]))
    np.testing.assert_allclose(ours["narrow/kernel"] @ y, theirs["down"] @ y)
    np.testing.assert_allclose(x @ ours["conv"], x @ theirs["conv.weight"])
    np.testing.assert_allclose(y @ ours["dense/kernel"], theirs["pool"] @ y)
    back = to_theirs(TABLE, ours)
    assert set(back) == set(theirs)
    for name, array in theirs.items():
        np.testing.assert_array_equal(back[name], array)


def test_other_names_tied_tensors_and_buffers():
    theirs = tensors()
    given = {f"model.{name}": array for name, array in theirs.items()}
    given |= {"model.head": theirs["embed.weight"], "model.position_ids": np.arange(3)}
    options = {
        "canonical": lambda name: name.removeprefix("model."),
        "tied": {"head": "embed.weight"},
        "ignored": [r".*position_ids"],
    }
    np.testing.assert_array_equal(to_ours(TABLE, given, OURS, **options)["embed"], theirs["embed.weight"])
    given["model.head"] = theirs["embed.weight"] + 1
    with pytest.raises(UserError, match=r"model.head must equal model.embed.weight"):
        to_ours(TABLE, given, OURS, **options)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("q.bias"), r"Missing: q\.bias"),
        (lambda t: t.update(adapter=np.ones(2)), "Left over: adapter"),
        (lambda t: t.update(k=np.ones((4, 3))), r"tensor k must be \[4, 2\] by config.json. Received: \[4, 3\]"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    theirs = tensors()
    change(theirs)
    with pytest.raises(UserError, match=message):
        to_ours(TABLE, theirs, OURS)


def test_a_weight_without_an_entry_is_an_error():
    with pytest.raises(ValueError, match="forgotten"):
        to_ours(TABLE, tensors(), {**OURS, "forgotten": (2,)})
    with pytest.raises(ValueError, match="forgotten"):
        to_theirs(TABLE, {**to_ours(TABLE, tensors(), OURS), "forgotten": np.ones(2)})
