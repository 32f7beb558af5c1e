"""A corpus into prepared arrays: documents to ids, in as many processes as pay."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from keras_llm.data.parallel import available_cores, ordered_map
from keras_llm.data.prepared import Prepared
from keras_llm.errors import UserError

BATCH = 1 << 18  # characters of documents encoded at once
WORTH_PROCESSES = 1 << 25  # characters encoded before processes, which take seconds to start, are worth it
ENCODER = "keras_llm.text.encoding:encoder_of_a_process"
MOST_PROCESSES = 8  # each holds TensorFlow, about 300 MB of its own


def prepare_documents(
    documents: Iterable[str],
    tokenizer_directory: str | Path,
    directory: str | Path,
    fingerprint: str,
    processes: int | None = None,
    total_bytes: int | None = None,
    show_progress: bool = False,
    encoder: tuple[str, ...] = ("documents",),
) -> Prepared:
    """Encodes documents and writes them as prepared data of a language model, one row a document: `token_ids` = start_id,
    its ids, end_id; uint16 where the vocabulary has at most 65,536 ids, else int32.

    The first 32 million characters are encoded in this process: a smaller corpus needs no other. The result does not depend
    on the number of processes.
    If anything fails, or on Ctrl-C, the processes end and nothing is left behind.

    Args:
        documents: read once, as a stream.
        tokenizer_directory: what `Tokenizer.save` wrote.
        directory: where the arrays go; prepared data already there is replaced once the new is whole.
        fingerprint: of what the documents and the tokenizer are, see `keras_llm.data.prepared.fingerprint`.
        processes: at most so many; None: one for each core, at most 8.
        total_bytes: of all documents, if known: for the progress bar (`corpus.part("train").amount.bytes`).
        show_progress: draw a bar over the documents' bytes.
        encoder: a name in `keras_llm.text.encoding.ENCODERS` and what it takes besides the tokenizer: with ("sentences",
            "none") rows are what a masked language model learns from, see `SentencewiseEncoder`.

    Raises:
        UserError: there are no documents; the tokenizer is broken; the disk is full; a process was killed.

    Example:

    >>> corpus = Corpus(["poems.txt"])
    >>> prepared = prepare_documents(corpus.part("train"), "runs/poems/tokenizer", "runs/poems/prepared", fingerprint("v1"))
    >>> len(prepared) == corpus.report.train.documents
    True
    """
    if processes is not None and processes < 1:
        raise UserError(f"processes must be at least 1. Received: {processes}. Give a positive number.")
    processes = min(available_cores(), MOST_PROCESSES) if processes is None else processes
    kind, *others = encoder
    with (
        tqdm(total=total_bytes, unit="B", unit_scale=True, desc="Tokenizing", disable=not show_progress) as bar,
        closing(_encoded(documents, (kind, str(tokenizer_directory), *others), processes, bar)) as blocks,
    ):
        return Prepared.write_blocks(directory, blocks, fingerprint)


def _encoded(documents: Iterable[str], encoder: tuple[str, ...], processes: int, bar: tqdm) -> Iterator[dict]:
    """The blocks of one batch of documents after the other."""
    from keras_llm.text.encoding import make_encoder

    sizes: list[int] = []  # of batches under way
    batches = _batches(documents, sizes)
    alone = itertools.islice(batches, WORTH_PROCESSES // BATCH) if processes > 1 else batches
    for block in map(make_encoder(*encoder), alone):
        bar.update(sizes.pop(0))
        yield block
    for batch in batches:  # the first of those left, if there are any
        rest = itertools.chain([batch], batches)
        with closing(ordered_map(ENCODER, encoder, rest, processes)) as blocks:
            for block in blocks:
                bar.update(sizes.pop(0))
                yield block


def _batches(documents: Iterable[str], sizes: list[int]) -> Iterator[list[str]]:
    batch, characters, bytes_ = [], 0, 0
    for text in documents:
        batch.append(text)
        characters += len(text)
        bytes_ += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if characters >= BATCH or len(batch) >= BATCH // 16:
            sizes.append(bytes_)
            yield batch
            batch, characters, bytes_ = [], 0, 0
    if batch:
        sizes.append(bytes_)
        yield batch
