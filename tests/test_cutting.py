"""Documents out of a stream: against plain Python twins, the same for blocks of any size, and nothing lost."""

import re
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.data.cutting import cut, documents

WORDS = ["a", "ab ", " ", "\n", "\n\n", "\t", "句。", "End. ", "！”", "\u3000", "😀", "  \n", "长" * 7]
texts = st.lists(st.sampled_from(WORDS), max_size=40).map("".join)


def blocks_of(text, sizes):
    at = 0
    for size in [*sizes, len(text)]:
        yield text[at : at + size]
        at += size


@given(text=texts, limit=st.integers(1, 30))
def test_parts_joined_are_the_text(text, limit):
    parts = list(cut(text, limit))
    assert "".join(parts) == text
    assert all(0 < len(part.rstrip()) <= limit or part.isspace() for part in parts)


@pytest.mark.parametrize("document", ["line", "paragraph", "file"])
@given(text=texts)
def test_documents_are_those_of_a_plain_split(document, text):
    split = {"line": lambda: text.split("\n"), "paragraph": lambda: re.split(r"\n\s*\n", text), "file": lambda: [text]}
    got = [piece.text.strip() for piece in documents([text], document, 1000)]
    assert got == [part.strip() for part in split[document]() if part.strip()]


@settings(max_examples=300)
@pytest.mark.parametrize("document", ["line", "paragraph", "file"])
@given(text=texts, sizes=st.lists(st.integers(0, 20)), limit=st.integers(8, 60))
def test_blocks_do_not_matter(document, text, sizes, limit):
    def all_of(blocks):
        return [(p.text.strip(), p.line + p.text[: len(p.text) - len(p.text.lstrip())].count("\n"), p.part)
                for p in documents(blocks, document, limit)]  # fmt: skip

    assert all_of(blocks_of(text, sizes)) == all_of([text])


@pytest.mark.parametrize("document", ["line", "paragraph", "file"])
@given(text=texts, limit=st.integers(1, 20))
def test_no_character_is_lost_and_no_document_too_long(document, text, limit):
    pieces = list(documents([text], document, limit))
    assert "".join("".join(piece.text for piece in pieces).split()) == "".join(text.split())
    assert all(len(piece.text.rstrip()) <= limit for piece in pieces)


@given(text=texts)
def test_lines_are_where_the_file_has_them(text):
    for piece in documents([text], "line", 1000):
        assert text.split("\n")[piece.line - 1] == piece.text


def test_where_a_long_text_is_cut():
    assert list(cut("one one.\n\ntwo\ntwo. three", 16)) == ["one one.\n\n", "two\ntwo. three"]
    assert list(cut("one one\nthree two. six seven", 12)) == ["one one\n", "three two. ", "six seven"]
    assert list(cut("他说：“走吧。”然后走了很远", 10)) == ["他说：“走吧。”", "然后走了很远"]
    assert list(cut("word word word", 10)) == ["word word ", "word"]
    assert list(cut("长" * 25, 10)) == ["长" * 10, "长" * 10, "长" * 5]


def test_parts_are_numbered_and_whole_documents_are_not():
    pieces = list(documents(["short\n", "x" * 25, "\nshort"], "line", 10))
    assert [(p.text, p.line, p.part) for p in pieces] == [
        ("short", 1, 0),
        ("x" * 10, 2, 1),
        ("x" * 10, 2, 2),
        ("x" * 5, 2, 3),
        ("short", 3, 0),
    ]


@pytest.mark.parametrize("block", ["长句子没有尽头" * 300, " " * 2000, "\n" * 2000, "word. " * 300])
@pytest.mark.parametrize("document", ["line", "paragraph", "file"])
def test_memory_does_not_grow_with_the_document(document, block):
    """A line, a run of white space or a file that is 80 times the limit: a few blocks' worth is held."""
    tracemalloc.start()
    count = sum(1 for _ in documents((block for _ in range(40)), document, 1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    assert count >= (0 if block.isspace() else 70)
