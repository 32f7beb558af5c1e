"""Tagging: a text in, its entities out, each with its label and where it stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from keras_llm.data.tags import parse_tag, tag_names, transitions, write_tags
from keras_llm.errors import UserError
from keras_llm.tasks.base import Signature, Task, encode

PREPARED_AT_ONCE = 64  # texts
# Windows that go through the model at once: bounds the memory of a request with a very long text.
WINDOWS_AT_ONCE = 32
TOKEN_BYTES = 24  # of a token are read by the model's character part
KINDS = "OBIES"


class Tagging(Task):
    """An encoder with a score for every tag of every unit, and a chain over the tags, learned (a CRF) or not.

    A unit is what carries a tag: with the tokenizer `words` what stands between white space; with `wordpiece` a word, a
    punctuation mark or a Chinese character, its first piece carrying the tag; with `characters` a character other than white
    space. A text longer than the context is read in windows that share half of their tokens; each unit has the tag it gets in the
    window in which it is nearest to the middle, so no entity is cut.

    `answer(text: string [B])` gives the entities of each text in their order, padded to the most entities E of the batch, at
    least one column: `text, label: string [B, E]` (padding ""), `start, end: int32 [B, E]`, characters of the text, end exclusive
    (padding -1), `score: float32 [B, E]`, the probability that the entity's units have these tags (padding 0), and
    `count: int32 [B]`, how many there are. `ask` leaves the padding out.

    Example:

    >>> task = keras_llm.load("runs/names")
    >>> task.shown(task.ask([{"text": "李白生于碎叶城。"}])[0])
    {'entities': [{'text': '李白', 'label': 'PER', 'start': 0, 'end': 2, 'score': 0.98}, ...]}
    """

    inputs = ("text",)
    monitor = "f1"
    predicts = "entities"
    token_features = ("token_ids",)

    def __init__(self, config, tokenizer=None, vocabulary_size=None, precision=None):
        labels = config.labels
        if not labels.labels:
            raise UserError("A tagger needs its labels. Received: none. Train it on texts with entities.")
        self.names = tag_names(labels.labels, labels.scheme)
        super().__init__(config, tokenizer, vocabulary_size, precision)

    def make_model(self, vocabulary_size, dtype):
        from keras_llm.models.tagger import Tagger

        labels = self.config.labels
        allowed = transitions(self.names, labels.scheme)
        return Tagger(
            vocabulary_size,
            self.config.network,
            self.config.model,
            allowed,
            labels.crf,
            self.unknown_id,
            dtype=dtype,
        )

    @staticmethod
    def read_files(paths, config):
        from keras_llm.data.entities import read_entities

        return read_entities(paths, config.labels.labels)

    @staticmethod
    def fitted(config, records):
        """The labels of the training data, unless the config names them."""
        found = sorted({entity["label"] for record in records for entity in record["entities"]})
        if not found:
            raise UserError(
                f"A tagger learns from entities. Received: none in {len(records)} texts. Give texts in which some are marked."
            )
        return dataclasses.replace(
            config, labels=dataclasses.replace(config.labels, labels=config.labels.labels or found)
        )

    @staticmethod
    def texts(records):
        return (record["text"] for record in records)

    def bundled(self):
        from keras_llm.data.bundled import bundled
        from keras_llm.data.readers import read_squad

        records = read_squad(bundled("dev"))[0]
        return [{"text": text, "entities": []} for text in dict.fromkeys(record["context"] for record in records)]

    def requests(self, records):
        return [{"text": record["text"]} for record in records]

    def example_inputs(self):
        inputs = {"token_ids": np.array([[2, 3]], "int32"), "places": np.array([[1]], "int32")}
        return inputs | ({"character_ids": np.zeros((1, 2, TOKEN_BYTES), "int32")} if self._reads_characters else {})

    @property
    def _reads_characters(self):
        return self.config.network.character_dim > 0

    # strings -> batches

    def prepare(self, records):
        """Rows of `token_ids` [T], `places` [N], `tags` [N] (from 1, in the order of `names`), and where characters are read
        `character_ids` [T C]. A text longer than the context becomes several rows, cut between entities where possible."""
        import tensorflow as tf

        from keras_llm.text.unicode import sanitise
        from keras_llm.text.units import token_bytes, units_of

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
        def to_units(text):
            text = sanitise(text)
            units = units_of(self.tokenizer, text)
            characters = token_bytes(text, units.begins.values, units.ends.values, TOKEN_BYTES)
            return units, units.ids.with_values(characters)

        numbers = {name: number for number, name in enumerate(self.names, 1)}
        records = list(records)
        for first in range(0, len(records), PREPARED_AT_ONCE):
            some = records[first : first + PREPARED_AT_ONCE]
            units, characters = to_units(tf.constant([encode(record["text"]) for record in some]))
            # One conversion for all texts: a row of a ragged tensor costs more than all of it.
            ids, tokens, starts, ends, characters = (
                np.split(part.values.numpy(), part.row_splits.numpy()[1:-1])
                for part in (units.ids, units.tokens, units.unit_starts, units.unit_ends, characters)
            )
            for i, record in enumerate(some):
                spans = _spans(record["entities"], starts[i], ends[i])
                room = self.config.network.context_length - 2
                for low, high, begin, end in _parts(tokens[i], len(ids[i]), spans, room):
                    inside = [(max(a, low) - low, min(b, high) - low, x) for a, b, x in spans if a < high and low < b]
                    tags = write_tags(inside, high - low, self.config.labels.scheme)
                    frame = self.tokenizer.start_id, self.tokenizer.end_id
                    row = {
                        "token_ids": np.array([frame[0], *ids[i][begin:end], frame[1]], "int32"),
                        "places": (tokens[i][low:high] - begin + 1).astype("int32"),
                        "tags": np.array([numbers[tag] for tag in tags], "int32"),
                    }
                    if self._reads_characters:
                        row["character_ids"] = (
                            np.pad(characters[i][begin:end], ((1, 1), (0, 0))).astype("int32").ravel()
                        )
                    yield row

    def batches(self, prepared, multiple):
        from keras_llm.data.token_batches import bucketed

        return bucketed(prepared, self.config.training, "token_ids", ("token_ids",), multiple, self.padding)

    def split(self, batch):
        x = {"token_ids": batch["token_ids"], "places": batch["places"]}
        if self._reads_characters:
            rows, width = x["token_ids"].shape
            characters = batch["character_ids"][:, : width * TOKEN_BYTES]
            short = width * TOKEN_BYTES - characters.shape[1]
            x["character_ids"] = np.pad(characters, ((0, 0), (0, short))).reshape(rows, width, TOKEN_BYTES)
        tags = batch["tags"]
        if self.config.labels.crf:
            return x, tags, (tags > 0).sum(axis=1).astype("float32")
        return x, np.maximum(tags - 1, 0), (tags > 0).astype("float32")

    def loss(self):
        from keras_llm.layers.crf import CRFLoss

        return CRFLoss(self.model.crf) if self.config.labels.crf else super().loss()

    # ids -> numbers

    def evaluate(self, records, tune=False):
        """See `keras_llm.metrics.entities`."""
        from keras_llm.metrics.entities import evaluate_entities

        order = sorted(range(len(records)), key=lambda i: len(records[i]["text"]))
        predicted = [[]] * len(records)
        # Texts of like length together: little is computed for padding.
        for i, found in zip(order, self.ask([records[i] for i in order]), strict=True):
            predicted[i] = list(zip(found["start"], found["end"], found["label"], strict=True))
        true = [[(e["start"], e["end"], e["label"]) for e in record["entities"]] for record in records]
        return evaluate_entities(true, predicted)

    def answers_table(self, records):
        rows = []
        for record, answer in zip(records, self.ask(records), strict=True):
            true = [{**e, "text": record["text"][e["start"] : e["end"]]} for e in record["entities"]]
            predicted = self.shown(answer)["entities"]
            rows.append([record["text"], *(_listed(entities) for entities in (predicted, true))])
        return ["text", "predicted", "true"], rows

    # string -> string

    @property
    def signatures(self):
        return {"serving_default": Signature(self.answer, self.inputs, count="count")}

    def shown(self, answer):
        names = ("text", "label", "start", "end", "score")
        columns = zip(*(answer[name] for name in names), strict=True)
        return {"entities": [dict(zip(names, entity, strict=True)) for entity in columns]}

    def answer(self, text):
        import tensorflow as tf

        from keras_llm.text.unicode import sanitise
        from keras_llm.text.units import units_of, windows_of

        text = sanitise(text)
        tokenizer, units = self.tokenizer, units_of(self.tokenizer, text)
        length = self.config.network.context_length
        windows = windows_of(units, length, tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id)
        places = tf.stack([windows.window, windows.column], axis=1)
        tags, alone, given = (tf.gather_nd(table, places) for table in self._read(text, units, windows))

        # Entities as `read_tags` reads them: windows may disagree where they meet.
        parsed = [parse_tag(name) for name in self.names]
        kind = tf.gather(tf.constant([KINDS.index(tag.kind) for tag in parsed]), tags)
        labels = ["", *self.config.labels.labels]
        label = tf.gather(tf.constant([labels.index(tag.label) for tag in parsed]), tags)
        row = units.tokens.value_rowids()
        is_open = (kind == KINDS.index("B")) | (kind == KINDS.index("I"))
        may_go_on = (kind == KINDS.index("I")) | (kind == KINDS.index("E"))
        goes_on = is_open[:-1] & may_go_on[1:] & (label[:-1] == label[1:]) & (row[:-1] == row[1:])
        none = tf.zeros_like(kind[:1], tf.bool)
        goes_on = tf.concat([none, goes_on], 0)
        begins = (kind > 0) & ~goes_on
        ends = (kind > 0) & ~tf.concat([goes_on[1:], none], 0)
        first, last = tf.where(begins)[:, 0], tf.where(ends)[:, 0]
        count = tf.shape(first)[0]
        logs = tf.where(begins, alone, tf.where(goes_on, given, 0.0))
        entity = tf.cumsum(tf.cast(begins, tf.int32)) - 1  # -1, which the sum leaves out, before the first
        score = tf.exp(tf.minimum(tf.math.unsorted_segment_sum(logs, entity, count), 0.0))
        start, end = tf.gather(units.unit_starts.values, first), tf.gather(units.unit_ends.values, last)
        row = tf.gather(row, first)
        before = tf.cast(tf.gather(units.codes.row_starts(), row), tf.int32)
        characters = tf.ragged.range(before + start, before + end)
        codes = characters.with_values(tf.gather(units.codes.values, characters.values))

        def by_text(values, padding):
            rows = tf.RaggedTensor.from_value_rowids(values, row, tf.shape(text, tf.int64)[0], validate=False)
            most = tf.maximum(tf.reduce_max(tf.concat([rows.row_lengths(), [1]], 0)), 1)
            dense = rows.to_tensor(padding)
            return tf.pad(dense, [[0, 0], [0, most - tf.shape(dense, tf.int64)[1]]], constant_values=padding)

        return {
            "text": by_text(tf.strings.unicode_encode(codes, "UTF-8"), ""),
            "label": by_text(tf.gather(tf.constant(labels), tf.gather(label, first)), ""),
            "start": by_text(start, -1),
            "end": by_text(end, -1),
            "score": by_text(score, 0.0),
            "count": tf.math.bincount(tf.cast(row, tf.int32), minlength=tf.shape(text)[0], maxlength=tf.shape(text)[0]),
        }

    def _read(self, text, units, windows):
        """All windows through the model -> tags int32 [N, W], their log-probabilities, alone and given the tag before."""
        import tensorflow as tf

        from keras_llm.text.units import token_bytes

        rows = tf.shape(windows.token_ids)[0]
        bounds = [tf.concat([part.values, [0]], 0) for part in (units.begins, units.ends)]

        def body(first, arrays):
            here = slice(first, first + WINDOWS_AT_ONCE)
            places = windows.places[here]
            inputs = {"token_ids": windows.token_ids[here], "places": places}
            if self._reads_characters:
                flat = windows.flat[here]
                begins, ends = (tf.gather(bound, tf.maximum(flat, 0)) for bound in bounds)
                ends = tf.where(flat < 0, begins, ends)
                characters = token_bytes(text, *(tf.reshape(part, [-1]) for part in (begins, ends)), TOKEN_BYTES)
                inputs["character_ids"] = tf.reshape(characters, [*tf.unstack(tf.shape(flat)), TOKEN_BYTES])
            emissions, mask = self.model(inputs, training=False), places > 0
            tags = self.model.crf.decode(emissions, mask)
            found = (tags, *self.model.crf.log_probs(emissions, tags, mask))
            index = first // WINDOWS_AT_ONCE
            return first + WINDOWS_AT_ONCE, tuple(a.write(index, v) for a, v in zip(arrays, found, strict=True))

        types = (tf.int32, tf.float32, tf.float32)
        arrays = tuple(tf.TensorArray(kind, size=0, dynamic_size=True, infer_shape=False) for kind in types)
        _, arrays = tf.while_loop(lambda first, _: first < rows, body, (0, arrays), parallel_iterations=1)
        return [tf.ensure_shape(array.concat(), [None, None]) for array in arrays]


def _spans(entities: list[dict], starts: np.ndarray, ends: np.ndarray) -> list[tuple[int, int, str]]:
    """Entities as spans of units: all those they touch, but for one that an entity before has.

    Example:

    >>> _spans([{"start": 4, "end": 8, "label": "LOC"}], np.array([0, 3, 7]), np.array([2, 6, 9]))
    [(1, 3, 'LOC')]
    """
    spans, taken = [], 0
    for entity in entities:
        low = max(int(np.searchsorted(ends, entity["start"], side="right")), taken)
        high = int(np.searchsorted(starts, entity["end"], side="left"))
        if low < high:
            spans.append((low, high, entity["label"]))
            taken = high
    return spans


def _parts(tokens: np.ndarray, count: int, spans: list, room: int) -> Iterator[tuple[int, int, int, int]]:
    """Cuts a text of `count` tokens into parts of at most `room`: first and last unit, first and last token, ends exclusive.

    A cut stands before a unit, as far back as possible, and in an entity only if the entity itself is longer than a part.

    Example:

    >>> list(_parts(np.arange(6), 6, [(2, 4, "PER")], 3))
    [(0, 2, 0, 2), (2, 5, 2, 5), (5, 6, 5, 6)]
    """
    low, begin = 0, 0
    inside = {unit for start, end, _ in spans for unit in range(start + 1, end)}
    while low < len(tokens):
        if tokens[low] - begin >= room:  # white space has tokens, too, and may be longer than a part
            begin = int(tokens[low])
        high = len(tokens)
        if count - begin > room:
            high = max(int(np.searchsorted(tokens, begin + room, side="right")) - 1, low + 1)
            high = next((unit for unit in range(high, low, -1) if unit not in inside), high)
        end = count if high >= len(tokens) else int(tokens[high])
        yield low, high, begin, min(end, begin + room)
        low, begin = high, end


def _listed(entities: list[dict]) -> str:
    return ", ".join(f"{entity['text']} [{entity['label']}]" for entity in entities) or "(none)"
