"""Classification: a text, or a pair of texts, in; its label, or its labels, out."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np

from keras_llm.config import has_segments
from keras_llm.errors import UserError
from keras_llm.tasks.base import Task, encode

PREPARED_AT_ONCE = 256  # texts


class Classification(Task):
    """An encoder with a score for every label; one label a text, or with `labels.multi_label` any number.

    `answer(text: string [B])`, for pairs also `pair: string [B]`, gives `label: string [B]`, the most probable one, `score:
    float32 [B]`, its probability, `labels: string [B, K]` and `scores: float32 [B, K]`, all labels in the order of the config
    with their probabilities. Where a text may have several labels, each has a probability of its own, and `chosen: bool [B,
    K]` tells those of at least `settings["threshold"]`, which is found on the evaluation data. Of a text longer than the
    context the first tokens are read; of a pair, the longer text loses its end first.

    Example:

    >>> task = keras_llm.load("runs/sentiment")
    >>> task.ask([{"text": "这家酒店很干净，下次还来。"}])
    [{'label': 'positive', 'score': 0.98, 'labels': ['negative', 'positive'], 'scores': [0.02, 0.98]}]
    """

    token_features = ("token_ids",)

    def __init__(self, config, tokenizer=None, vocabulary_size=None, precision=None):
        self.inputs = ("text", "pair") if config.labels.pair else ("text",)
        self.monitor = "micro_f1" if config.labels.multi_label else "accuracy"
        self._weights = None
        super().__init__(config, tokenizer, vocabulary_size, precision)
        if config.labels.multi_label:
            self.settings = {"threshold": 0.5}

    def make_model(self, vocabulary_size, dtype):
        from keras_llm.models.classifier import Classifier

        config, labels = self.config, self.config.labels
        if not labels.labels:
            raise UserError("A classifier needs its labels. Received: none. Train it on labelled data.")
        segments, count = has_segments(config), len(labels.labels)
        return Classifier(vocabulary_size, config.network, config.model, count, segments, self.unknown_id, dtype=dtype)

    @staticmethod
    def read_files(paths, config):
        from keras_llm.data.labelled import read_labelled

        return read_labelled(paths, config)

    @classmethod
    def read_more(cls, paths, config):
        records, report = cls.read_files(paths, config)
        pair = config.labels.pair
        if any(("pair" in record) != pair for record in records):
            known, found = ("pairs of texts", "single texts") if pair else ("single texts", "pairs of texts")
            raise UserError(
                f"A classifier of {known} reads {known}. Received: {', '.join(map(str, paths))}: {found}. Give other files, or "
                "name the columns with --text-field and --pair-field."
            )
        return records, report

    @staticmethod
    def fitted(config, records):
        """The labels of the training data, unless the config names them, what the file of names holds, and whether texts come
        in pairs: a run needs none of its files again."""
        from keras_llm.data.labelled import names_of

        labels = dataclasses.replace(config.labels, names=names_of(config.labels))
        counts = Counter(label for record in records for label in record["labels"])
        names = labels.labels or sorted(
            counts, key=lambda name: (not name.isdecimal(), name.isdecimal() and int(name), name)
        )
        # Of labels that are given, too, some must differ from text to text.
        if len(counts) < 2 and (not labels.multi_label or counts.total() in (0, len(records))):
            raise UserError(
                f"A classifier chooses between labels. Received: {', '.join(counts) or 'none'} in all texts. Give texts with at "
                "least two labels."
            )
        labels = dataclasses.replace(labels, labels=names, pair="pair" in records[0])
        return dataclasses.replace(config, labels=labels)

    @staticmethod
    def texts(records):
        return (record[name] for record in records for name in ("text", "pair") if name in record)

    def bundled(self):
        from keras_llm.data.bundled import bundled
        from keras_llm.data.readers import read_squad

        records = read_squad(bundled("dev"))[0]
        return [{"text": record["question"], "pair": record["context"], "labels": []} for record in records]

    def requests(self, records):
        return [{name: record[name] for name in self.inputs} for record in records]

    def example_inputs(self):
        return {name: np.array([[2, 3]], "int32") * (name == "token_ids") for name in ("token_ids", "segment_ids")}

    # string -> ids

    def encode_texts(self, text, pair=None):
        """string [B], and for pairs string [B] -> ids int32 [B, T] and segments int32 [B, T]."""
        from keras_llm.text.packing import pack, pack_pair

        tokenizer, limit = self.tokenizer, self.config.network.context_length
        frame = tokenizer.start_id, tokenizer.end_id
        if pair is not None:
            ids = tokenizer.encode(text), tokenizer.encode(pair)
            return pack_pair(*ids, *frame, limit, tokenizer.pad_id, self.config.text.pair_ends)
        ids, _ = pack(tokenizer.encode(text), frame[:1], frame[1:], limit, tokenizer.pad_id)
        return ids, ids * 0

    def prepare(self, records):
        import tensorflow as tf

        places = {name: place for place, name in enumerate(self.config.labels.labels)}
        specs = [tf.TensorSpec([None], tf.string)] * len(self.inputs)
        to_ids = tf.function(self.encode_texts, input_signature=specs, autograph=False)
        records = list(records)
        for first in range(0, len(records), PREPARED_AT_ONCE):
            some = records[first : first + PREPARED_AT_ONCE]
            texts = (tf.constant([encode(record[name]) for record in some]) for name in self.inputs)
            ids, segments = (part.numpy() for part in to_ids(*texts))
            for record, row, segment in zip(some, ids, segments, strict=True):
                length = np.flatnonzero(row != self.tokenizer.pad_id)[-1] + 1
                found = {"token_ids": row[:length].astype("int32"), "segment_ids": segment[:length].astype("bool")}
                label = [places[name] for name in record["labels"]]
                if self.config.labels.multi_label:
                    found["label"] = np.isin(np.arange(len(places)), label)
                else:
                    found["label"] = np.asarray(label[0], "int32")
                yield found

    def batches(self, prepared, multiple):
        from keras_llm.data.token_batches import bucketed

        if self.config.labels.class_weights == "balanced":
            self._weights = balanced(prepared.features["label"], len(self.config.labels.labels))
        return bucketed(prepared, self.config.training, "token_ids", ("token_ids",), multiple, self.padding)

    def split(self, batch):
        x = {name: batch[name].astype("int32") for name in ("token_ids", "segment_ids")}
        if self.config.labels.multi_label:
            y = batch["label"][:, : len(self.config.labels.labels)]  # batches pad rows
            return x, y, np.ones(len(y), "float32")
        y = batch["label"]
        return x, y, np.ones(len(y), "float32") if self._weights is None else self._weights[y]

    def loss(self):
        from keras_llm.layers.losses import BinaryCrossEntropy, CrossEntropy, FocalCrossEntropy

        gamma, smoothing = self.config.labels.focal_gamma, self.config.training.label_smoothing
        if self.config.labels.multi_label:
            return BinaryCrossEntropy(smoothing, gamma)
        return FocalCrossEntropy(gamma) if gamma else CrossEntropy(smoothing)

    # ids -> numbers

    def judged(self, records):
        """What metrics are taken from.

        Returns:
            truth: int [N], places of the true labels, or bool [N, K]; probabilities: float32 [N, K].
        """
        places = {name: place for place, name in enumerate(self.config.labels.labels)}
        order = sorted(range(len(records)), key=lambda i: sum(len(records[i][name]) for name in self.inputs))
        probabilities = np.zeros((len(records), len(places)), "float32")
        # Texts of like length together: little is computed for padding.
        probabilities[order] = [answer["scores"] for answer in self.ask([records[i] for i in order])]
        chosen = [[places[name] for name in record["labels"]] for record in records]
        if self.config.labels.multi_label:
            return np.array([np.isin(np.arange(len(places)), some) for some in chosen]), probabilities
        return np.array([some[0] for some in chosen]), probabilities

    def evaluate(self, records, tune=False):
        """See `keras_llm.metrics.labels`; with hierarchical labels also `accuracy_1` (where a text may have several labels:
        `micro_f1_1`), `macro_f1_1` … of the upper levels."""
        from keras_llm.metrics.labels import best_threshold, classification_metrics, multi_label_metrics

        several = self.config.labels.multi_label
        truth, probabilities = self.judged(records)
        if several:
            if tune:
                self.settings["threshold"] = best_threshold(truth, probabilities)
            threshold = self.settings["threshold"]
            found = multi_label_metrics(truth, probabilities, threshold)
        else:
            found = classification_metrics(truth, probabilities)
        for level, (upper, names) in enumerate(self._levels(), 1):
            if several:  # a text has a label there, and is given it, where that is so for any below it
                raised = (joined(values, upper, names, np.maximum) for values in (truth, probabilities))
                above = multi_label_metrics(*raised, threshold)
            else:
                sums = joined(probabilities.astype("float64"), upper, names, np.add)
                above = classification_metrics(upper[truth], sums)
            found |= {f"{name}_{level}": above[name] for name in (self.monitor, "macro_f1")}
        return found

    def _levels(self):
        """Of each level above the lowest: the place of every label's part there, and how many parts there are."""
        labels = self.config.labels
        parts = [name.split(labels.separator) if labels.separator else [name] for name in labels.labels]
        for level in range(1, max(map(len, parts))):
            above = [labels.separator.join(part[:level]) for part in parts]
            names = sorted(set(above))
            yield np.array([names.index(name) for name in above]), len(names)

    # string -> string

    def answer(self, text, pair=None):
        import tensorflow as tf

        ids, segments = self.encode_texts(text, pair)
        logits = self.model({"token_ids": ids, "segment_ids": segments}, training=False)
        several = self.config.labels.multi_label
        scores = tf.sigmoid(logits) if several else tf.nn.softmax(logits)
        names = tf.constant(self.config.labels.labels)
        score, best = tf.math.top_k(scores, 1)  # the first of equals
        found = {
            "label": tf.gather(names, best[:, 0]),
            "score": score[:, 0],
            "labels": tf.repeat(names[None], tf.shape(scores)[0], axis=0),
            "scores": scores,
        }
        if several:
            found["chosen"] = scores >= self.settings["threshold"]
        return found

    def predictions(self, records):
        answers = self.ask(self.requests(records))
        return {record["id"]: self._predicted(answer) for record, answer in zip(records, answers, strict=True)}

    def _predicted(self, answer) -> str | list[str]:
        """The label, or where there may be several, those that were chosen."""
        if not self.config.labels.multi_label:
            return answer["label"]
        return [name for name, chosen in zip(answer["labels"], answer["chosen"], strict=True) if chosen]

    def answers_table(self, records):
        rows = []
        for record, answer in zip(records, self.ask(records), strict=True):
            texts, predicted = " | ".join(record[name] for name in self.inputs), self._predicted(answer)
            shown = predicted if isinstance(predicted, str) else ", ".join(predicted)
            rows.append([texts, shown, ", ".join(record["labels"]), f"{answer['score']:.3f}"])
        return ["text", "predicted", "true", "score"], rows


def joined(values: np.ndarray, groups: np.ndarray, count: int, how: np.ufunc) -> np.ndarray:
    """Columns [N, K] that are put together by their groups, [N, count].

    Example:

    >>> joined(np.array([[1.0, 2.0, 4.0]]), np.array([0, 1, 0]), 2, np.add).tolist()
    [[5.0, 2.0]]
    """
    found = np.zeros((len(values), count), values.dtype)
    how.at(found.T, groups, values.T)
    return found


def balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """Weights that let all labels count the same: texts / (labels · texts of the label), float32 [K].

    Example:

    >>> balanced(np.array([0, 0, 0, 1]), 2).round(3).tolist()
    [0.667, 2.0]
    """
    numbers = np.bincount(labels, minlength=count)
    return (len(labels) / (count * np.maximum(numbers, 1))).astype("float32")
