"""Further training texts made from labelled ones: words dropped or swapped, words exchanged by a masked language model, texts
translated there and back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from keras_llm.config import Config, FieldConfig, LabelConfig, nearest
from keras_llm.errors import UserError

METHODS = ("deletion", "swap", "substitution", "back_translation")
AT_ONCE = 64  # texts
SIDES = ("text", "pair")


def make_method(
    name: str,
    share: float = 0.1,
    segmentation: str = "jieba",
    model: str | Path | None = None,
    forward: str | Path | None = None,
    back: str | Path | None = None,
    temperature: float = 1.0,
    top_k: int = 10,
    beams: int | None = None,
) -> Callable[[Sequence[str], Sequence[np.random.Generator]], list[str]]:
    """One way to change texts: a function of texts and as many random generators that returns the changed texts; a text that
    cannot be changed comes back as it is.

    Args:
        name: one of `METHODS`.
        share: of the words that are changed; back_translation has no use for it.
        segmentation: what a Chinese word is for deletion and swap: "jieba", or "none", a character.
        model: for substitution, a run of kind masked_lm.
        forward, back: for back_translation, two runs of kind seq2seq.
        temperature, top_k: of what the runs draw; `top_k` 0 draws from all.
        beams: back_translation searches with so many beams in place of drawing.

    Raises:
        UserError: an unknown method, a share that is none, a run that is missing, of no use here, or of another kind.

    Example:

    >>> make_method("swap", share=0.3)(["a very good film"], [np.random.default_rng(0)])
    ['a good very film']
    """
    if name not in METHODS:
        raise UserError(f"A method is one of {', '.join(METHODS)}. Received: {name!r}.{nearest(name, METHODS)}")
    if not 0 < share < 1:
        raise UserError(f"share must be above 0 and below 1. Received: {share}.")
    if temperature < 0 or top_k < 0:
        raise UserError(f"temperature and top_k must not be negative. Received: {temperature} and {top_k}.")
    if beams is not None and (beams < 1 or name != "back_translation"):
        raise UserError(f"beams is a number from 1, for back_translation. Received: {beams} for {name}.")
    runs = {"model": model, "forward": forward, "back": back}
    needed = {"substitution": {"model"}, "back_translation": {"forward", "back"}}.get(name, set())
    for flag, run in runs.items():
        if (flag in needed) != (run is not None):
            wanted = " and ".join(f"--{one}" for one in runs if one in needed) or "none"
            raise UserError(
                f"Of runs, {name} needs {wanted}. Received: {f'--{flag} {run}' if run else f'no --{flag}'}."
            )
    if not needed:
        from keras_llm.augmentation.by_chance import Deletion, Swap

        return (Deletion if name == "deletion" else Swap)(share, segmentation)

    from keras_llm.augmentation.by_models import BackTranslation, Substitution
    from keras_llm.run import load

    if model:
        return Substitution(load(model), share, temperature, top_k)
    return BackTranslation(load(forward), load(back), temperature, top_k, beams)


def augment(records: Sequence[dict], method, name: str, copies: int = 1, seed: int = 0) -> Iterator[list[dict]]:
    """Further records, with the labels of those they are made from.

    Args:
        records: from `read_labelled`; of a pair both texts are changed.
        method: from `make_method`.
        name: stands in the records.
        copies: how many are made of each record. Those that equal it, or another one made from it, are left out.
        seed: decides, with a record's place, everything that is drawn.

    Yields:
        Lists, for some records at a time: `{"text", "labels", "source": id of the record, "method": name}`, and "pair".

    Example:

    >>> records = [{"id": "a:1", "text": "a very good film", "labels": ["1"]}]
    >>> next(augment(records, make_method("swap", share=0.3), "swap"))
    [{'text': 'a good very film', 'labels': ['1'], 'source': 'a:1', 'method': 'swap'}]
    """
    for first in range(0, len(records), AT_ONCE):
        some = list(enumerate(records[first : first + AT_ONCE], first))
        places = [(i, copy, side) for i, record in some for copy in range(copies) for side in SIDES if side in record]
        texts = [records[i][side] for i, _, side in places]
        randoms = [np.random.default_rng([seed, i, copy, SIDES.index(side)]) for i, copy, side in places]
        changed = dict(zip(places, method(texts, randoms), strict=True))
        added = []
        for i, record in some:
            known = {tuple(record.get(side) for side in SIDES)}
            for copy in range(copies):
                new = {side: changed[i, copy, side] for side in SIDES if side in record}
                key = tuple(new.get(side) for side in SIDES)
                if key not in known:
                    known.add(key)
                    added.append({**new, "labels": record["labels"], "source": record["id"], "method": name})
        yield added


def augment_files(
    paths: Sequence[str | Path],
    output: str | Path,
    name: str,
    copies: int = 1,
    seed: int = 0,
    fields: FieldConfig | None = None,
    say: Callable[[str], None] = print,
    show_progress: bool = False,
    **settings,
) -> int:
    """Reads labelled texts, of one label, several or none, and writes further ones; see `read_labelled` and `write_labelled`.

    Args:
        paths: labelled texts.
        output: the file to write; must not exist.
        name, settings: for `make_method`.
        copies, seed: for `augment`.
        fields: names of columns and keys, in what is read and what is written.
        say: receives what is told to the user.
        show_progress: draw a bar.

    Returns:
        How many texts were written.

    Raises:
        UserError: as the functions named, or no text could be changed. Nothing is written then.
    """
    from tqdm import tqdm

    from keras_llm.data.labelled import read_labelled
    from keras_llm.data.labelled_writing import check_output, check_table, write_labelled

    fields = fields or FieldConfig()
    if copies < 1:
        raise UserError(f"copies must be at least 1. Received: {copies}.")
    if copies > 1 and settings.get("beams"):
        raise UserError(
            f"Beams find one text, not several. Received: copies={copies} with beams. Leave one of them out."
        )
    if not 0 <= seed < 1 << 32:
        raise UserError(f"seed must be from 0 to 2**32 - 1. Received: {seed}.")
    check_output(output, fields)
    # Labels go through as they are: what may be one is for the training to say.
    records, report = read_labelled(paths, Config(fields=fields, labels=LabelConfig(multi_label=True)))
    for line in report.lines():
        say(line)
    check_table(output, [{**record, "source": record["id"]} for record in records])  # before hours of work
    method = make_method(name, **settings)
    added = []
    interval = 0.5 if sys.stderr.isatty() else 30
    with tqdm(total=len(records), unit=" texts", desc=name, mininterval=interval, disable=not show_progress) as bar:
        for part in augment(records, method, name, copies, seed):
            added += part
            bar.update(min(AT_ONCE, len(records) - bar.n))
    if not added:
        raise UserError(
            f"At least one text must change. Received: none of {len(records)} did by {name}. Check the texts."
        )
    write_labelled(output, added, fields)
    alike = len(records) * copies - len(added)
    say(
        f"{len(records):,} texts, {len(added):,} added by {name}"
        + (f", {alike:,} left out: nothing new" if alike else "")
    )
    return len(added)
