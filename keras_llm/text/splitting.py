"""How byte-level vocabularies split text into words before they merge: the regular expressions of their makers, in RE2.

RE2 has no lookahead, and all of them end in `\\s+(?!\\S)|\\s+`: of white space before a word, the last character goes with
the word. Here the text is first cut in front of that character, at a byte that no UTF-8 has. In the pieces white space is
where a word begins or at the end, so `\\s+` says the same.

Shapes: B batch, W words.
"""

from __future__ import annotations

import dataclasses
import json

import tensorflow as tf

from keras_llm.errors import UserError

# Unicode's White_Space; RE2's own \s is ASCII's without the vertical tab.
WHITE = r"\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
WHITE_IN_LINE = WHITE.replace(r"\t-\r", r"\t\x{b}\x{c}")
CUT = b"\xff"
# Letters and numbers of Unicode 16, which Hugging Face's library knows; the RE2 in TensorFlow 2.21 ends at Unicode 15.
LETTER = (
    r"\p{L}\x{1c89}\x{1c8a}\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3}\x{10d4a}-\x{10d65}\x{10d6f}-\x{10d85}"
    r"\x{10ec2}-\x{10ec4}\x{11380}-\x{11389}\x{1138b}\x{1138e}\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3}"
    r"\x{11bc0}-\x{11be0}\x{13460}-\x{143fa}\x{16100}-\x{1611d}\x{16d40}-\x{16d6c}\x{18cff}\x{1e5d0}-\x{1e5ed}"
    r"\x{1e5f0}\x{2ebf0}-\x{2ee5d}"
)
NUMBER = (
    r"\p{N}\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{16130}-\x{16139}\x{16d70}-\x{16d79}"
    r"\x{1ccf0}-\x{1ccf9}\x{1e5f1}-\x{1e5fa}"
)
CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
GPT2 = f"{CONTRACTIONS}| ?[{LETTER}]+| ?[{NUMBER}]+| ?[^{WHITE}{LETTER}{NUMBER}]+|[{WHITE}]+"
MODERN = (
    f"(?i:{CONTRACTIONS})|[^\\r\\n{LETTER}{NUMBER}]?[{LETTER}]+|[{NUMBER}]@"
    f"| ?[^{WHITE}{LETTER}{NUMBER}]+[\\r\\n]*|[{WHITE}]*[\\r\\n]+|[{WHITE}]+"
)


@dataclasses.dataclass(frozen=True)
class Splitting:
    """One way to split.

    Attributes:
        words: what a word is; between them the matches cover all of a text.
        cut: white space that goes with what follows it: the class of characters at which a text is cut.
        source: the expression as its makers and Hugging Face's tokenizer.json write it.
        normal_form: the Unicode normal form the makers apply first.
        whole_words: a word that is a token is that token, whatever the merges say.
    """

    words: str
    cut: str
    source: str
    normal_form: str = "identity"
    whole_words: bool = False


GPT2_SOURCE = CONTRACTIONS + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
MODERN_SOURCE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}@| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITTINGS = {
    "gpt2": Splitting(GPT2, WHITE, GPT2_SOURCE),
    "llama3": Splitting(
        MODERN.replace("@", "{1,3}"), WHITE_IN_LINE, MODERN_SOURCE.replace("@", "{1,3}"), whole_words=True
    ),
    "qwen2": Splitting(MODERN.replace("@", ""), WHITE_IN_LINE, MODERN_SOURCE.replace("@", ""), normal_form="nfc"),
}


def splitting_of(described: dict, where) -> Splitting:
    """How a Hugging Face tokenizer.json splits text into words.

    Args:
        described: its content, with a `pre_tokenizer`.
        where: its name, for messages.

    Raises:
        UserError: it splits, or normalises, in a way that is not known here.
    """
    steps = described["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    sources = [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]
    sources += [
        SPLITTINGS["gpt2"].source for step in steps if step.get("type") == "ByteLevel" and step.get("use_regex", True)
    ]
    known = {splitting.source: splitting for splitting in SPLITTINGS.values()}
    kinds = {step.get("type") for step in steps}
    if len(sources) != 1 or sources[0] not in known or not kinds <= {"Split", "ByteLevel"}:
        raise UserError(
            f"A byte-pair tokenizer must split text as {', '.join(SPLITTINGS)} do. Received: {where} with "
            f"{json.dumps(described['pre_tokenizer'], ensure_ascii=False)[:300]}. Choose another model."
        )
    normalizer = (described.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC", "NFKC"):
        raise UserError(
            f"A byte-pair tokenizer must leave text as it is, or in NFC or NFKC. Received: {where} with the normalizer "
            f"{normalizer}. Choose another model."
        )
    return dataclasses.replace(
        known[sources[0]],
        normal_form=(normalizer or "identity").lower(),
        whole_words=bool(described.get("model", {}).get("ignore_merges")),
    )


def split_words(text, splitting: Splitting) -> tf.RaggedTensor:
    """Text to words; joined they are the text.

    Args:
        text: string `[B]`, valid UTF-8.
        splitting: one of `SPLITTINGS`.

    Returns:
        string `[B, (W)]`.

    Example:

    >>> split_words(["It's   12 o'clock"], SPLITTINGS["gpt2"]).to_list()
    [[b'It', b"'s", b'  ', b' 12', b' o', b"'", b'clock']]
    """
    # White space that stands before something else, and that.
    text = tf.strings.regex_replace(text, f"([{splitting.cut}])([^{WHITE}])", CUT + rb"\1\2")
    # No match goes over a cut. (tensorflow-text's regex_split would do this, but ends at a NUL.)
    words = tf.strings.split(tf.strings.regex_replace(text, f"(?:{splitting.words})", CUT + rb"\0"), CUT)
    return tf.ragged.boolean_mask(words, words != "")
