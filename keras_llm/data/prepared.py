"""Prepared data: what preprocessing made of the records, as memory-mapped arrays, so that training needs no tokenizer.

One `.npy` file a feature. A scalar feature, or one of two and more dimensions that has the same shape in every row, is
one array `[N, ...]`. A 1-D feature may have another length in every row: `<feature>.npy` holds all values one after the
other and row i is `values[splits[i]:splits[i + 1]]` with the splits from `<feature>.splits.npy`. `prepared.json`
describes them.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from keras_llm.data.text_files import find_files
from keras_llm.errors import UserError

FORMAT = 1
DTYPES = ("bool", "uint16", "int32", "int64", "float32")
DESCRIPTION = "prepared.json"


class Prepared:
    """Memory-mapped features, one row an example; made by `Prepared.write` or `Prepared.open`.

    Attributes:
        features: name -> array as stored: `[N, ...]`, or all values of a 1-D feature.
        splits: name of a 1-D feature -> int64 `[N + 1]`, where its rows begin and end.
        fingerprint: of what the rows were made from.

    Example:

    >>> import tempfile
    >>> rows = [{"ids": np.array(ids, "int32"), "label": np.int32(len(ids))} for ids in ([5, 6, 7], [8])]
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     prepared = Prepared.write(directory + "/train", rows, fingerprint("v1"))
    >>> len(prepared), prepared.row(0)["ids"].tolist(), prepared.lengths("ids").tolist()
    (2, [5, 6, 7], [3, 1])
    """

    def __init__(self, features: dict[str, np.ndarray], splits: dict[str, np.ndarray], fingerprint: str, count: int):
        self.features = features
        self.splits = splits
        self.fingerprint = fingerprint
        self._count = count

    def __len__(self) -> int:
        return self._count

    def row(self, i: int) -> dict[str, np.ndarray]:
        """Row i, as views that cannot be written to."""
        if not 0 <= i < len(self):
            raise IndexError(f"Rows go from 0 to {len(self) - 1}. Received: {i}.")
        row = {}
        for name, values in self.features.items():
            splits = self.splits.get(name)
            row[name] = values[i, ...] if splits is None else values[splits[i] : splits[i + 1]]
        return row

    def lengths(self, feature: str) -> np.ndarray:
        """Lengths of a 1-D feature's rows, int64 `[N]`."""
        if feature not in self.splits:
            raise ValueError(f"Only 1-D features have lengths: {sorted(self.splits)}. Received: {feature!r}.")
        return np.diff(self.splits[feature])

    @classmethod
    def write(cls, directory: str | Path, rows: Iterable[dict[str, np.ndarray]], fingerprint: str) -> "Prepared":
        """Writes the rows as they come, so that memory stays small, and opens the result.

        Args:
            directory: where; prepared data already there is replaced once the new is whole.
            rows: the features of each example; every row has the same names, dtypes (bool, uint16, int32, int64 or
                float32) and shapes, but for the lengths of 1-D features.
            fingerprint: of what the rows were made from, see `fingerprint`.

        Raises:
            UserError: there are no rows; the disk is full; `directory` holds something else.
        """
        return cls._write(directory, fingerprint, lambda beside, shown: _write_columns(beside, rows, shown))

    @classmethod
    def write_blocks(
        cls, directory: str | Path, blocks: Iterable[dict[str, tuple[np.ndarray, np.ndarray]]], fingerprint: str
    ) -> "Prepared":
        """As `write` of rows with 1-D features, for millions of short rows: many rows at a time, a hundred times as fast.

        Args:
            directory, fingerprint: see `write`.
            blocks: for each feature `(values [n], lengths [rows])`: the values of some rows one after the other, and how many
                each has.

        Raises:
            UserError: as `write`.

        Example:

        >>> import tempfile
        >>> block = {"ids": (np.array([5, 6, 7, 8], "uint16"), np.array([3, 1]))}
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     prepared = Prepared.write_blocks(directory + "/train", [block], fingerprint("v1"))
        >>> prepared.row(0)["ids"].tolist()
        [5, 6, 7]
        """
        return cls._write(directory, fingerprint, lambda beside, shown: _write_blocks(beside, blocks, shown))

    @classmethod
    def _write(cls, directory: str | Path, fingerprint: str, write_columns) -> "Prepared":
        directory = Path(directory).resolve()
        if directory.exists() and not (directory / DESCRIPTION).is_file():
            if not directory.is_dir() or any(directory.iterdir()):
                raise UserError(f"Only prepared data is overwritten. Received: {directory}. Give a new directory.")
        beside = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
        try:
            with _disk_errors(directory):
                shutil.rmtree(beside, ignore_errors=True)  # of a killed process that had the same number
                beside.mkdir(parents=True)
            description = write_columns(beside, directory) | {"fingerprint": fingerprint}
            with _disk_errors(directory):
                (beside / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
                _replace(beside, directory)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return cls.open(directory)

    @classmethod
    def open(cls, directory: str | Path, fingerprint: str | None = None) -> "Prepared":
        """Opens prepared data without reading its values.

        Args:
            directory: where `write` wrote.
            fingerprint: of what it must have been made from; None accepts any.

        Raises:
            UserError: the directory is missing or damaged, or was made from something else.
        """
        directory = Path(directory)
        try:
            description = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))
            if description["format"] != FORMAT:
                received = f"{description['format']} in {directory}"
                raise UserError(f"Prepared data must have format {FORMAT}. Received: {received}. Prepare it again.")
            if fingerprint is not None and fingerprint != description["fingerprint"]:
                raise UserError(
                    "Prepared data must be made from the given data, tokenizer and config. Received: "
                    f"{directory}, which was made from others (fingerprint {description['fingerprint'][:12]}, "
                    f"not {fingerprint[:12]}). Delete that directory, so that the data is prepared again."
                )
            features, splits = _open_columns(directory, description)
            return cls(features, splits, description["fingerprint"], description["count"])
        except FileNotFoundError as error:
            missing = directory if not directory.exists() else error.filename
            raise UserError(f"Prepared data must be whole. Received: no {missing}. Prepare the data again.") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            received = f"{directory}, damaged: {error}"
            raise UserError(f"Prepared data must be whole. Received: {received}. Prepare the data again.") from None


def in_memory(rows: Iterable[dict[str, np.ndarray]]) -> Prepared:
    """Rows of 1-D features as prepared data that is on no disk, for evaluation.

    Args:
        rows: as `Prepared.write` takes them; at least one.

    Raises:
        UserError: there are no rows.

    Example:

    >>> in_memory([{"ids": np.array([5, 6])}, {"ids": np.array([7])}]).splits["ids"].tolist()
    [0, 2, 3]
    """
    rows = list(rows)
    if not rows:
        raise UserError("At least one example must be prepared. Received: none to evaluate on. Check the data.")
    splits = {name: np.cumsum([0, *(len(row[name]) for row in rows)]) for name in rows[0]}
    return Prepared({name: np.concatenate([row[name] for row in rows]) for name in rows[0]}, splits, "", len(rows))


def fingerprint(*parts) -> str:
    """SHA-256 of what something was made from.

    Args:
        parts: a `pathlib.Path` counts by its contents (a directory by the names and contents of the files that are read of
            it, see `keras_llm.data.text_files.find_files`), a dataclass by its fields, and a string, number, list or dict by its
            value.

    Raises:
        UserError: a file cannot be read, or a directory holds no text file.

    Example:

    >>> fingerprint("a", {"x": 1, "y": 2}) == fingerprint("a", {"y": 2, "x": 1}) != fingerprint("a", {"x": 1, "y": 3})
    True
    """
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            files = find_files([part])[0] if part.is_dir() else [part]
            value = {"files": [[file.relative_to(part).as_posix(), _file_digest(file)] for file in files]}
        else:
            value = {"value": dataclasses.asdict(part) if dataclasses.is_dataclass(part) else part}
        total.update(hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest())
    return total.hexdigest()


def _file_digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"The file must be readable. Received: {path}: {error.strerror}. Check the path.") from None


class _Column:
    """One `.npy` file that grows by rows. NumPy leaves room in the header for the first axis to grow: the number of
    rows is filled in at the end."""

    def __init__(self, path: Path, dtype: np.dtype, row_shape: tuple[int, ...]):
        self.dtype, self.row_shape, self.count = dtype, row_shape, 0
        self.file = open(path, "wb", buffering=1 << 18)
        self._write_header()
        self.values_at = self.file.tell()

    def _write_header(self) -> None:
        shape = (self.count, *self.row_shape)
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)

    def extend(self, values: np.ndarray) -> None:
        self.file.write(values.tobytes())
        self.count += len(values)

    def finish(self) -> None:
        self.file.seek(0)
        self._write_header()
        if self.file.tell() != self.values_at:
            raise RuntimeError("NumPy wrote a header of another length: growing .npy files is not possible with it.")
        self.file.flush()
        os.fsync(self.file.fileno())


def _write_columns(beside: Path, rows: Iterable[dict[str, np.ndarray]], directory: Path) -> dict:
    """Writes all rows -> the description without the fingerprint."""
    columns: dict[str, _Column] = {}
    splits: dict[str, _Column] = {}
    count = 0
    try:
        for row in rows:
            row = {name: np.asarray(value) for name, value in row.items()}
            with _disk_errors(directory):
                if not count:
                    _start_columns(beside, row, columns, splits)
                _check_row(row, columns, splits, count)
                for name, value in row.items():
                    columns[name].extend(value if name in splits else value[None])
                    if name in splits:
                        splits[name].extend(np.array([columns[name].count]))
            count += 1
        return _finish_columns(columns, splits, count, directory)
    finally:
        for column in (*columns.values(), *splits.values()):
            _close_quietly(column)


def _write_blocks(beside: Path, blocks: Iterable[dict[str, tuple[np.ndarray, np.ndarray]]], directory: Path) -> dict:
    """As `_write_columns`, for rows with 1-D features, block by block."""
    columns: dict[str, _Column] = {}
    splits: dict[str, _Column] = {}
    count = 0
    try:
        for block in blocks:
            ends = {name: np.cumsum(lengths, dtype="int64") for name, (_, lengths) in block.items()}
            _check_block(block, ends)
            values = {name: values for name, (values, _) in block.items()}
            with _disk_errors(directory):
                if not columns:
                    _start_columns(beside, values, columns, splits)
                _check_row(values, columns, splits, count)
                for name in block:
                    splits[name].extend(columns[name].count + ends[name])
                    columns[name].extend(values[name])
            count += len(next(iter(ends.values())))
        return _finish_columns(columns, splits, count, directory)
    finally:
        for column in (*columns.values(), *splits.values()):
            _close_quietly(column)


def _check_block(block: dict[str, tuple[np.ndarray, np.ndarray]], ends: dict[str, np.ndarray]) -> None:
    for name, (values, lengths) in block.items():
        total = ends[name][-1] if len(ends[name]) else 0
        if values.ndim != 1 or len(values) != total or np.any(np.asarray(lengths) < 0):
            raise ValueError(f"The rows' lengths must sum up to the {values.shape} values. Received: {lengths!r}.")
    rows = {name: len(each) for name, each in ends.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"A block has as many rows of each feature. Received: {rows}.")


def _finish_columns(columns: dict[str, _Column], splits: dict[str, _Column], count: int, directory: Path) -> dict:
    """The description without the fingerprint."""
    if not count:
        raise UserError(f"At least one example must be prepared. Received: none for {directory}. Check the data.")
    with _disk_errors(directory):
        for column in (*columns.values(), *splits.values()):
            column.finish()
    features = {
        name: {"dtype": column.dtype.name, "shape": [column.count, *column.row_shape], "varying": name in splits}
        for name, column in columns.items()
    }
    return {"format": FORMAT, "count": count, "features": features}


def _start_columns(beside: Path, row: dict, columns: dict[str, _Column], splits: dict[str, _Column]) -> None:
    for name, value in row.items():
        if not name.isidentifier():
            raise ValueError(f"A feature names a file, so its name must be an identifier. Received: {name!r}.")
        if value.dtype.name not in DTYPES:
            raise ValueError(f"Feature {name!r} must be one of {', '.join(DTYPES)}. Received: {value.dtype}.")
        columns[name] = _Column(beside / f"{name}.npy", value.dtype, () if value.ndim == 1 else value.shape)
        if value.ndim == 1:
            splits[name] = _Column(beside / f"{name}.splits.npy", np.dtype("int64"), ())
            splits[name].extend(np.array([0]))


def _check_row(row: dict[str, np.ndarray], columns: dict[str, _Column], splits: dict[str, _Column], i: int) -> None:
    if row.keys() != columns.keys():
        raise ValueError(f"Every row must have the features {sorted(columns)}. Received: {sorted(row)} in row {i}.")
    for name, value in row.items():
        fits = value.ndim == 1 if name in splits else value.shape == columns[name].row_shape
        if not fits or value.dtype != columns[name].dtype:
            received = f"{value.dtype} {value.shape} in row {i}"
            raise ValueError(f"Feature {name!r} must have dtype and shape as in the first row. Received: {received}.")


def _close_quietly(column: _Column) -> None:
    try:
        column.file.close()
    except OSError:  # a full disk: it was reported by the write that failed
        pass


def _open_columns(directory: Path, description: dict) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(features, splits); ValueError where something does not fit."""
    features, splits, count = {}, {}, description["count"]
    for name, stored in description["features"].items():
        features[name] = _open_array(directory / f"{name}.npy", stored["dtype"], tuple(stored["shape"]))
        if stored["varying"]:
            splits[name] = rows = _open_array(directory / f"{name}.splits.npy", "int64", (count + 1,))
            if rows[0] != 0 or rows[-1] != len(features[name]) or np.any(rows[1:] < rows[:-1]):
                raise ValueError(f"the row splits of {name} do not fit its values")
        elif len(features[name]) != count:
            raise ValueError(f"{name} has {len(features[name])} rows instead of {count}")
    return features, splits


def _open_array(path: Path, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise
    except Exception as error:  # from a damaged header NumPy lets through whatever its parser raises
        raise ValueError(f"{path.name}: {error}") from None
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        raise ValueError(f"{path.name} is {array.dtype} {array.shape} instead of {dtype} {shape}")
    if path.stat().st_size != array.offset + array.nbytes:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes instead of {array.offset + array.nbytes}")
    return array.view(np.ndarray)  # slicing a plain array is several times faster than slicing np.memmap


def _replace(beside: Path, directory: Path) -> None:
    """Puts the directory `beside` in the place of `directory`; whatever fails, one of the two stands there."""
    old = directory.with_name(f".{directory.name}.{os.getpid()}.old")
    if directory.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(directory, old)
    try:
        os.replace(beside, directory)
    except OSError:
        if old.exists():
            os.replace(old, directory)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        received = f"{directory}: {error.strerror}"
        raise UserError(
            f"Prepared data must be writable. Received: {received}. Free space or choose another place."
        ) from None
