"""Sentence embedding: a text in, a vector out that is near those of texts that mean the same."""

from __future__ import annotations

import numpy as np

from keras_llm.errors import UserError
from keras_llm.tasks.base import Task, encode

PREPARED_AT_ONCE = 256  # pairs


class Embedding(Task):
    """An encoder that is trained on pairs of texts: the second text of a pair is to be nearer than those of all other pairs of
    the batch, and than the wrong ones that the data names.

    `answer(text: string [B])` gives `embedding: float32 [B, W]`, of length 1 unless `embedding.normalise` is off. Of a longer
    text the first `lengths.max_text_length` tokens are read.

    Example:

    >>> task = keras_llm.load("runs/sentences")
    >>> len(task.ask([{"text": "今天天气很好。"}])[0]["embedding"])
    384
    """

    inputs = ("text",)
    monitor = "mrr"
    token_features = ("token_ids", "pair_ids")
    predicts = "embedding"

    def make_model(self, vocabulary_size, dtype):
        from keras_llm.models.sentence_encoder import SentenceEncoder

        config, how = self.config, self.config.embedding
        return SentenceEncoder(
            vocabulary_size, config.network, config.model, how.normalise, how.temperature, dtype=dtype
        )

    @staticmethod
    def read_files(paths, config):
        from keras_llm.data.text_pairs import read_text_pairs

        records, report = read_text_pairs(paths, config)
        least = config.embedding.positive_score
        below = sum(record.get("score", least) < least for record in records)
        if below:
            report.unlearned = f"pairs below --positive-score {least:g}, not learned from: {below}"
        return records, report

    @classmethod
    def read_more(cls, paths, config):
        from keras_llm.data.text_pairs import read_text_pairs

        return read_text_pairs(paths, config)  # judged are pairs of every score

    @staticmethod
    def texts(records):
        for record in records:
            yield from (record["text"], record["pair"], *record["negatives"])

    def bundled(self):
        from keras_llm.data.bundled import bundled
        from keras_llm.data.readers import read_squad

        records = read_squad(bundled("dev"))[0]
        return [{"text": record["question"], "pair": record["context"], "negatives": []} for record in records]

    def requests(self, records):
        return [{"text": record["text"]} for record in records]

    def example_inputs(self):
        ids = np.array([[2, 3]], "int32")
        return {"token_ids": ids, "pair_ids": ids}

    def drawn_inputs(self, records):
        import tensorflow as tf

        return {"token_ids": self.encode_texts(tf.constant([encode(records[0]["text"])])).numpy()}

    # string -> ids

    @property
    def longest(self):
        """Tokens of a text that are read, its frame among them."""
        return self.config.lengths.max_text_length or self.config.network.context_length

    def encode_texts(self, text):
        """string [B] -> int32 [B, T]."""
        from keras_llm.text.packing import pack

        tokenizer = self.tokenizer
        frame = [tokenizer.start_id], [tokenizer.end_id]
        return pack(tokenizer.encode(text), *frame, self.longest, tokenizer.pad_id)[0]

    def prepare(self, records):
        import tensorflow as tf

        to_ids = tf.function(self.encode_texts, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)

        def encoded(texts):
            for row in to_ids(tf.constant(list(map(encode, texts)), tf.string)).numpy():
                yield row[: np.flatnonzero(row != self.tokenizer.pad_id)[-1] + 1].astype("int32")

        how = self.config.embedding
        records = [record for record in records if record.get("score", how.positive_score) >= how.positive_score]
        if not records:
            raise UserError(
                f"Pairs are learned from where their score is at least positive_score, {how.positive_score}. Received: none. "
                "Give a smaller --positive-score, or pairs that belong together."
            )
        count = min(how.negatives, max(len(record["negatives"]) for record in records))
        for first in range(0, len(records), PREPARED_AT_ONCE):
            some = records[first : first + PREPARED_AT_ONCE]
            columns = {"token_ids": [r["text"] for r in some], "pair_ids": [r["pair"] for r in some]}
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*map(encoded, columns.values()), strict=True)]
            wrong = [
                (row, text) for row, record in zip(rows, some, strict=True) for text in record["negatives"][:count]
            ]
            for row in rows:  # a pair without so many has empty ones
                row |= {f"negative_{i}_ids": np.zeros(0, "int32") for i in range(count)}
            for (row, _), ids in zip(wrong, encoded([text for _, text in wrong]), strict=True):
                row[next(name for name in row if name.startswith("negative") and not len(row[name]))] = ids
            yield from rows

    def batches(self, prepared, multiple):
        from keras_llm.data.batches import Batches

        training = self.config.training
        if training.batch_size < 2:
            raise UserError(
                "Contrastive learning needs other pairs in a batch. Received: batch_size=1. Give 2 or more."
            )
        padding = dict.fromkeys(prepared.splits, self.config.network.pad_id)
        return Batches(prepared, training.batch_size, training.seed, multiple=multiple, padding=padding)

    def split(self, batch):
        texts, pairs = batch["token_ids"], batch["pair_ids"]
        x = {"token_ids": texts, "pair_ids": pairs}
        wrong = [batch[name] for name in sorted(batch) if name.startswith("negative")]
        is_right = same_rows(texts) | same_rows(pairs)  # what another pair repeats is no wrong answer
        np.fill_diagonal(is_right, False)
        candidates = ~is_right
        if wrong:
            width = max(ids.shape[1] for ids in wrong)
            pad_id = self.config.network.pad_id
            wrong = [np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=pad_id) for ids in wrong]
            x["negative_ids"] = np.stack(wrong, axis=1)
            flat = x["negative_ids"].reshape(-1, width)
            is_there = (flat != pad_id).any(-1)
            candidates = np.concatenate([candidates, is_there & ~_is_right(texts, pairs, flat, pad_id)], axis=1)
        x["candidates"] = candidates
        return x, np.arange(len(texts), dtype="int32"), np.ones(len(texts), "float32")

    # ids -> numbers

    def vectors(self, texts):
        """Vectors of texts, float32 [N, W]; texts of like length go through the model together."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = [answer["embedding"] for answer in self.ask([{"text": texts[i]} for i in order])]
        vectors = np.zeros((len(texts), self.model.encoder.width), "float32")
        if order:
            vectors[order] = found
        return vectors

    def evaluate(self, records, tune=False):
        """Of scored pairs `spearman`, the rank correlation of cosines and scores; else how well each text finds its second one
        among all second and wrong texts: `recall@1`, `recall@5`, `recall@10`, `mrr`."""
        from keras_llm.metrics.retrieval import cosines, retrieval_metrics, spearman

        if all("score" in record for record in records):
            self.monitor = "spearman"
            first, second = (self.vectors([record[name] for record in records]) for name in ("text", "pair"))
            scores = np.array([record["score"] for record in records])
            return {"spearman": spearman(scores, cosines(first, second)), "pairs": len(records)}
        self.monitor = "mrr"
        places: dict[str, int] = {}
        right: dict[str, list[int]] = {}
        for record in records:
            place = places.setdefault(record["pair"], len(places))
            right.setdefault(record["text"], []).append(place)
        for record in records:
            for text in record["negatives"]:
                places.setdefault(text, len(places))
        found = retrieval_metrics(self.vectors(list(right)), self.vectors(list(places)), list(right.values()))
        return found | {"queries": len(right), "candidates": len(places)}

    # string -> string

    def answer(self, text):
        return {"embedding": self.model.embed(self.encode_texts(text), training=False)}

    def answers_table(self, records):
        from keras_llm.metrics.retrieval import cosines

        first, second = (self.vectors([record[name] for record in records]) for name in ("text", "pair"))
        rows = [
            [record["text"], record["pair"], f"{record['score']:g}" if "score" in record else "", f"{cosine:.3f}"]
            for record, cosine in zip(records, cosines(first, second), strict=True)
        ]
        return ["text", "pair", "score", "cosine"], rows


def _is_right(texts, pairs, others, pad_id) -> np.ndarray:
    """Which of the other texts are right for a text, as its own pair or that of an equal text: bool [B, number of others]."""
    width = max(pairs.shape[1], others.shape[1])
    rows = [np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=pad_id) for ids in (pairs, others)]
    equal = same_rows(np.concatenate(rows))[: len(pairs), len(pairs) :]
    return same_rows(texts) @ equal


def same_rows(ids: np.ndarray) -> np.ndarray:
    """Which rows are equal: int [B, T] -> bool [B, B].

    Example:

    >>> same_rows(np.array([[1, 2], [3, 0], [1, 2]]))[0].tolist()
    [True, False, True]
    """
    _, number = np.unique(ids, axis=0, return_inverse=True)
    number = number.reshape(-1)
    return number[:, None] == number
