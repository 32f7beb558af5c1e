"""Tensors that PyTorch pickled (`pytorch_model.bin`), read without PyTorch and without running what a pickle says.

A pickle is a program. This one may only build dictionaries and name tensors; any other name in it is refused. Both forms are
read: the zip archive, and the one before PyTorch 1.6 in which many older checkpoints still come.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from keras_llm.errors import UserError

# What `torch.save` of the old form begins with, pickled.
MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# What reading a broken or foreign pickle may raise.
BROKEN = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
    NotImplementedError,
)


@dataclasses.dataclass(frozen=True)
class Storage:
    """A flat array in the file."""

    dtype: np.dtype
    key: str
    count: int


@dataclasses.dataclass(frozen=True)
class Pickled:
    """A tensor: a view of a storage."""

    storage: Storage
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, flat: np.ndarray) -> np.ndarray:
        """The tensor from its storage's numbers [count]."""
        return np.lib.stride_tricks.as_strided(
            flat[self.first :], self.shape, [stride * flat.itemsize for stride in self.strides], writeable=False
        )


class Unpickler(pickle.Unpickler):
    """Knows dictionaries and tensors, and no other name."""

    def find_class(self, module, name):
        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in STORAGES:
            return np.dtype(STORAGES[name])
        raise Foreign(f"{module}.{name}")

    def persistent_load(self, pid):
        _, dtype, key, _, count, *_ = pid
        if not isinstance(dtype, np.dtype) or not isinstance(key, str) or not isinstance(count, int):
            raise pickle.UnpicklingError("a storage that is none")
        return Storage(dtype, key, count)


class Foreign(Exception):
    """A name that no file of tensors needs."""


class PickledTensors(Mapping[str, np.ndarray]):
    """The tensors of one file by name, each read when it is asked for.

    Args:
        path: what `torch.save(model.state_dict(), path)` wrote.

    Raises:
        UserError: missing, damaged, or a pickle that names anything but tensors.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._is_zip = zipfile.is_zipfile(path)
            found, self._places = self._read_zip() if self._is_zip else self._read_old()
        except Foreign as error:
            raise UserError(
                f"{path} must hold tensors and nothing else. Received: a pickle that names {error}, which could run anything. "
                "Save the model as safetensors (save_pretrained does), or use one saved with model.state_dict()."
            ) from None
        except FileNotFoundError:
            raise UserError(f"{path} is missing. Fetch the checkpoint again.") from None
        except BROKEN as error:
            raise self._damaged(error) from None
        if not isinstance(found, dict) or not all(isinstance(value, Pickled) for value in found.values()):
            raise UserError(
                f"{path} must hold one dictionary of named tensors. Received: something else. Save model.state_dict()."
            )
        self._tensors: dict[str, Pickled] = {str(name): tensor for name, tensor in found.items()}

    def __iter__(self):
        return iter(self._tensors)

    def __len__(self):
        return len(self._tensors)

    def __getitem__(self, name):
        tensor = self._tensors[name]
        storage = tensor.storage
        try:
            if self._is_zip:
                with zipfile.ZipFile(self.path) as archive:
                    content = archive.read(self._places["data/"] + storage.key)
            else:
                with open(self.path, "rb") as file:
                    file.seek(self._places[storage.key])
                    content = file.read(storage.count * storage.dtype.itemsize)
            return tensor.of(np.frombuffer(content, storage.dtype, storage.count))
        except BROKEN as error:
            raise self._damaged(f"{name}: {error}") from None

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's sizes, without reading it."""
        return self._tensors[name].shape

    def _read_zip(self):
        """The dictionary, and where the storages' names begin."""
        with zipfile.ZipFile(self.path) as archive:
            names = archive.namelist()
            (main,) = [name for name in names if name.endswith("/data.pkl")]
            top = main.removesuffix("data.pkl")
            if f"{top}byteorder" in names and archive.read(f"{top}byteorder") != b"little":
                raise ValueError("big-endian numbers")
            with archive.open(main) as file:
                return Unpickler(file).load(), {"data/": f"{top}data/"}

    def _read_old(self):
        """The dictionary, and each storage's first byte."""
        with open(self.path, "rb") as file:
            if Unpickler(file).load() != MAGIC:
                raise ValueError("no file of PyTorch")
            Unpickler(file).load()  # the protocol's version
            if not Unpickler(file).load()["little_endian"]:
                raise ValueError("big-endian numbers")
            found = Unpickler(file).load()
            storages = {}
            if isinstance(found, dict):
                storages = {value.storage.key: value.storage for value in found.values() if isinstance(value, Pickled)}
            place, places = 0, {}
            for key in Unpickler(file).load():
                place = file.tell() + 8  # behind the number of elements
                places[key] = place
                file.seek(place + storages[key].count * storages[key].dtype.itemsize)
            return found, places

    def _damaged(self, error):
        return UserError(
            f"{self.path} is no file of PyTorch tensors, or is damaged ({error or type(error).__name__}). "
            "Fetch the checkpoint again."
        )


def _tensor(storage, first, shape, strides, *_):
    last = first + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    numbers = [first, *shape, *strides]
    if min(numbers) < 0 or (math.prod(shape) and last >= storage.count):
        raise pickle.UnpicklingError("a tensor beyond its storage")
    return Pickled(storage, first, tuple(shape), tuple(strides))


def _parameter(tensor, *_):
    return tensor
