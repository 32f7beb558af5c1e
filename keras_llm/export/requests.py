"""What an export is asked before it is trusted: real questions, texts that break careless graphs, and bytes that are no text."""

from __future__ import annotations

import random
from collections.abc import Sequence

from keras_llm.tasks.base import encode

VERY_LONG = 100_000  # characters
SINGLES = 16  # real requests that are also asked one by one; difficult ones all are
BATCH = 24
GENERATED = 24

# Zipped with real texts they become requests of their own.
DIFFICULT = (
    "",
    " ",
    "\n\t ",
    "？",
    "！！！，。；：“”‘’（）《》",
    "𠮷野家の龘靐齉爩，𪚥。",
    "🙂👩‍👩‍👧‍👦🇨🇳 emoji 😀",
    "naïve café Å Ａ１ ﬁ",
    "\x00",
    "end with NUL\x00",
    "\x00\x01\x1f control \x7f\u200b\u202e\ufeff",
    "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    "\uffff\ufffe\ufdd0 non-characters \U0010ffff",
    "[CLS] [SEP] <s> </s> <pad> <0x41> ▁",
    "ＦＵＬＬ　ＷＩＤＴＨ　ｔｅｘｔ",
    "المعنى עברית हिन्दी ไทย",
    "e" + "\u0301" * 500,
)
INVALID = (
    b"\xff\xfe LSTM \xc3",
    b"\xe4\xbd",  # two thirds of a character
    "语言".encode() + b"\xe6\xa8" + "模型？".encode(),
    b"overlong \xc0\x80 \xe0\x80\xaf \xf0\x80\x80\x80",
    b"surrogates \xed\xa0\x80\xed\xb0\x80",
    b"too high \xf4\x90\x80\x80 \xf5\x80\x80\x80 \xf8\x88\x80\x80\x80",
    b"\x80\xbf\x80",
    b"\xf0\x9f\x99" + "🙂".encode(),
    "谁提出了注意力？".encode("gb18030"),
    "naïve".encode("utf-16"),
)
LONG = (("什么是语言模型？ What is a language model? " * VERY_LONG)[:VERY_LONG].encode(), b"a" * VERY_LONG)
PIECES = (
    *(bytes([byte]) for byte in (0, 9, 10, 13, 32, 0x7F, 0x80, 0xBF, 0xC0, 0xC3, 0xE4, 0xED, 0xF0, 0xF4, 0xFF)),
    *(
        text.encode()
        for text in ("语", "模型", "，", "？", "龘", "a", "Attention", "1997", ".", "é", "ﬁ", "🙂", "👩‍👩‍👧", "\u3000")
    ),
)


def proof_requests(inputs: Sequence[str], records: Sequence[dict]) -> list[dict[str, bytes]]:
    """The requests of a proof: real ones first, then the difficult ones of every input.

    Args:
        inputs: names of the string inputs.
        records: real requests as `str`; more keys than the inputs do no harm.

    Returns:
        Requests as bytes; some are not UTF-8.

    Example:

    >>> proof_requests(("question",), [{"question": "谁？"}])[0]["question"].decode()
    '谁？'
    """
    real = [{name: encode(record[name]) for name in inputs} for record in records]
    first = real[0] if real else dict.fromkeys(inputs, b"language model")
    random_bytes = random.Random(0)
    texts = [*(encode(text) for text in DIFFICULT), *INVALID]
    texts += [b"".join(random_bytes.choices(PIECES, k=random_bytes.randint(1, 60))) for _ in range(GENERATED)]
    made = [dict.fromkeys(inputs, text) for text in texts]
    # Very long ones stand alone: in all inputs at once they would only cost time.
    alone = [*LONG] if len(inputs) == 1 else [*texts, *LONG]
    made += [{**first, name: text} for name in inputs for text in alone]
    return real + made


def batched(requests: Sequence[dict], real: int, all_alone: bool = True) -> list[list[int]]:
    """Which requests go together: some real ones and all difficult ones alone, then all in mixed batches of unequal lengths,
    but for the very long ones, which would only be computed twice.

    Args:
        requests: from `proof_requests`.
        real: how many of them are real; those stand first.
        all_alone: False: only the real ones alone, for another signature over the same preprocessing.

    Returns:
        Batches of positions in `requests`.
    """
    mixed = [i for i, request in enumerate(requests) if max(map(len, request.values())) < VERY_LONG]
    random.Random(0).shuffle(mixed)
    alone = [i for i in range(len(requests)) if i < SINGLES or (all_alone and i >= real)]
    return [[i] for i in alone] + [mixed[first : first + BATCH] for first in range(0, len(mixed), BATCH)]
