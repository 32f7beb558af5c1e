"""Files as streams of text: which are found, and what is said of those that are not UTF-8 text."""

import gzip
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.data import text_files
from keras_llm.data.text_files import find_files, read_blocks
from keras_llm.errors import UserError

CHINESE = "床前明月光，疑是地上霜。举头望明月，低头思故乡。"


def written(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def message(path):
    with pytest.raises(UserError) as caught:
        list(read_blocks(path))
    return str(caught.value)


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(st.one_of(st.characters(codec="utf-8", exclude_characters="\0"), st.sampled_from("\r\n😀长é"))),
    block=st.integers(1, 9),
    mark=st.booleans(),
    zipped=st.booleans(),
)
def test_blocks_joined_are_the_text(tmp_path_factory, text, block, mark, zipped):
    if text.startswith("\ufeff") or text.startswith(("%PDF", "PK")):
        return
    path = tmp_path_factory.mktemp("blocks") / ("a.txt.gz" if zipped else "a.txt")
    data = b"\xef\xbb\xbf" * mark + text.encode()
    path.write_bytes(gzip.compress(data) if zipped else data)
    before, text_files.BLOCK = text_files.BLOCK, max(block, 3 * mark)
    try:
        told = []
        assert "".join(read_blocks(path, told.append)) == text.replace("\r\n", "\n").replace("\r", "\n")
        assert sum(told) == path.stat().st_size or not text
    finally:
        text_files.BLOCK = before


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 20])
def test_the_first_wrong_byte_is_named_with_its_line(tmp_path, monkeypatch, block):
    monkeypatch.setattr(text_files, "BLOCK", block)
    path = written(tmp_path / "a.txt", b"ascii\nnoch " + b"\xe9\xe8x\n")
    assert f"{path}:2: text must be UTF-8. Received: byte 0xe9 at column 6" in message(path)
    path = written(tmp_path / "b.txt", "一\n二\n".encode() + b"caf\xe9\n")
    assert f"{path}:3: text must be UTF-8. Received: byte 0xe9 at column 4" in message(path)
    assert "mixes encodings" in message(path)
    path = written(tmp_path / "end.txt", "一\n二".encode()[:-1])  # the file ends within a character
    assert f"{path}:2: text must be UTF-8. Received: byte 0xe4 at column 1" in message(path)


@pytest.mark.parametrize(("encoding", "name"), [("gb18030", "GB18030"), ("big5", "Big5")])
def test_chinese_encodings_are_recognised(tmp_path, encoding, name):
    text = CHINESE if encoding == "gb18030" else "人之初，性本善。性相近，習相遠。"
    path = written(tmp_path / "a.txt", text.encode(encoding))
    assert f"It looks like {name}" in message(path) and f"iconv -f {name}" in message(path)
    path = written(tmp_path / "mixed.txt", f"{CHINESE}\n".encode() + text.encode(encoding))
    assert f"{path}:2:" in message(path)
    assert f"mixes encodings. It looks like {name}" in message(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"text\nand\0more", ":2: text holds no NUL bytes. Received: a binary file"),
        (
            "text".encode("utf-16"),
            ":1: a corpus is UTF-8 text. Received: a file in UTF-16. Convert it: iconv -f UTF-16",
        ),
        ("text".encode("utf-32"), "Received: a file in UTF-32"),
        (b"\x89PNG\r\n\x1a\n", ":1: text must be UTF-8. Received: byte 0x89 at column 1"),
        (b"%PDF-1.7 ...", "Received: a file in PDF. Unpack it, or leave it out"),
        (b"PK\x03\x04...", "Received: a file in zip"),
        (gzip.compress(b"text", mtime=0), "Received: a file in gzip. Name it .gz"),
    ],
)
def test_what_is_no_text(tmp_path, data, said):
    assert said in message(written(tmp_path / "a.txt", data))
    assert said in message(written(tmp_path / "a.txt.gz", gzip.compress(data)))


def test_broken_gzip(tmp_path):
    whole = gzip.compress(CHINESE.encode() * 50)
    for data in (whole[:-20], b"not gzip", whole[:20] + b"\0\0\0\0" + whole[24:]):
        assert "must be a whole gzip file" in message(written(tmp_path / "a.txt.gz", data))


def test_directories_are_read_in_order(tmp_path):
    for name in ("b/2.txt", "b/1.jsonl.gz", "a.md", "c.TXT", "b/.hidden.txt", ".git/x.txt", "b/image.png", "README"):
        written(tmp_path / name, b"x")
    files, others = find_files([tmp_path, tmp_path / "a.md", tmp_path / "README"])
    assert [str(f.relative_to(tmp_path)) for f in files] == ["a.md", "b/1.jsonl.gz", "b/2.txt", "c.TXT", "README"]
    assert others == {".png": 1, "no suffix": 1}


def test_wrong_paths(tmp_path):
    written(tmp_path / "pictures" / "a.png", b"x")
    written(tmp_path / "a.json", b"[]")
    for paths, said in [
        ([], "needs at least one file"),
        ([tmp_path / "none.txt"], "must exist"),
        ([tmp_path / "pictures"], "must hold text files .* with 1 other files"),
        ([tmp_path / "a.json"], "JSON lines"),
    ]:
        with pytest.raises(UserError, match=said):
            find_files(paths)


def test_a_pipe_is_refused(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs pipes with names")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match="read more than once"):
        find_files([tmp_path / "pipe.txt"])
