"""Reading comprehension: a question and a context in, the span that answers or no answer out."""

from __future__ import annotations

import numpy as np

from keras_llm.tasks.base import encode
from keras_llm.tasks.question_answering import QuestionAnswering

# Windows that go through the model at once: bounds the memory of a request with a very long context.
WINDOWS_AT_ONCE = 32
ALWAYS_ANSWER = 1e9


class Reading(QuestionAnswering):
    """Extractive reader over windows of the context.

    A context longer than `window_length` tokens is read in windows that share `window_stride` tokens. Each window gives
    the probability of each span and of "no answer here" as softmax(start) x softmax(end). The best span over all windows is
    the answer; its score is its probability divided by the sum over all spans of all windows and no answer (the window
    least sure that it holds nothing). Where the evaluation data has unanswerable questions, the context is said to hold no
    answer when log p(no answer) - log p(best span) is above `settings["no_answer_threshold"]`.

    `answer(question, context: string [B])` gives `answer: string [B]`, `score: float32 [B]`, `start, end: int32 [B]`:
    characters of the context, end exclusive, -1 for no answer.

    Reference: Devlin et al. 2018 (windows, no-answer score), https://arxiv.org/abs/1810.04805.
    """

    inputs = ("question", "context")
    length_feature = "context_ids"
    token_features = ("question_ids", "context_ids")

    def __init__(self, config, tokenizer=None, vocabulary_size=None, precision=None):
        super().__init__(config, tokenizer, vocabulary_size, precision)
        self.settings = {"no_answer_threshold": ALWAYS_ANSWER}

    @staticmethod
    def read_files(paths, config):
        from keras_llm.data.readers import read_squad

        return read_squad(paths)

    @staticmethod
    def texts(records):
        return (text for record in records for text in (record["question"], record["context"]))

    def example_inputs(self):
        return {"question_ids": np.array([[2, 3]], "int32"), "context_ids": np.array([[2, 3, 4]], "int32")}

    # string -> ids

    @property
    def _frame(self):
        """What stands before and behind a question: an encoder reads it and the context as one text."""
        if self.config.model != "transformer_encoder":
            return (), ()
        return (self.tokenizer.start_id,), (self.tokenizer.end_id,) * self.config.text.pair_ends

    def windows(self, question, context):
        """Splits contexts into windows.

        Args:
            question, context: string [B].

        Returns:
            Dict of `question_ids` int32 [N, Q] (in a frame if the model wants one), `context_ids` int32 [N, T], `starts` and
            `ends` int32 [N, T] (bytes of the context), `example` int32 [N] (row of the batch, ascending).
        """
        import tensorflow as tf

        from keras_llm.text.packing import pack

        lengths = self.config.lengths
        start, end = self._frame
        limit = lengths.max_question_length + len(start) + len(end)
        # At least one column, so that empty strings give a model input it can handle.
        questions, _ = pack(self.tokenizer.encode(question), start, end, limit, self.tokenizer.pad_id)
        ids, starts, ends = self.tokenizer.encode_with_offsets(context)
        rows = tf.cast(ids.row_splits, tf.int32)
        sizes = rows[1:] - rows[:-1]
        advance = lengths.window_length - lengths.window_stride
        counts = 1 + (tf.maximum(sizes - lengths.window_length, 0) + advance - 1) // advance
        example = tf.repeat(tf.range(tf.size(sizes)), counts)
        index = tf.range(tf.size(example)) - tf.gather(tf.cumsum(counts, exclusive=True), example)
        first = index * advance
        width = tf.clip_by_value(tf.reduce_max(tf.concat([sizes, [1]], 0)), 1, lengths.window_length)
        column = first[:, None] + tf.range(width)[None, :]
        valid = column < tf.gather(sizes, example)[:, None]
        place = tf.where(valid, tf.gather(rows[:-1], example)[:, None] + column, 0)

        def cut(flat, padding=0):
            # One more value, so that a batch of empty contexts has something to gather.
            flat = tf.concat([tf.cast(flat, tf.int32), [0]], 0)
            return tf.where(valid, tf.gather(flat, place), padding)

        return {
            "question_ids": tf.gather(tf.cast(questions, tf.int32), example),
            "context_ids": cut(ids.flat_values, self.tokenizer.pad_id),
            "starts": cut(starts.flat_values),
            "ends": cut(ends.flat_values),
            "example": example,
        }

    def prepare(self, records):
        import tensorflow as tf

        signature = [tf.TensorSpec([None], tf.string)] * 2
        windows = tf.function(self.windows, input_signature=signature, autograph=False)
        records = list(records)
        for first in range(0, len(records), 64):
            batch = records[first : first + 64]
            found = windows(
                tf.constant([encode(record["question"]) for record in batch]),
                tf.constant([encode(record["context"]) for record in batch]),
            )
            found = {name: value.numpy() for name, value in found.items()}
            for i, example in enumerate(found["example"]):
                length = int(np.count_nonzero(found["ends"][i]))
                question = found["question_ids"][i]
                first_token, last_token = _label(batch[example], found["starts"][i][:length], found["ends"][i][:length])
                yield {
                    "question_ids": question[: max(int(np.count_nonzero(question != self.tokenizer.pad_id)), 1)],
                    "context_ids": found["context_ids"][i][: max(length, 1)],
                    "first": np.int32(first_token),
                    "last": np.int32(last_token),
                }

    def split(self, batch):
        x = {"question_ids": batch["question_ids"], "context_ids": batch["context_ids"]}
        spans = np.stack([batch["first"], batch["last"]], axis=1)
        return x, spans, np.ones(spans.shape, "float32")

    # numbers -> string

    def best_spans(self, question, context):
        """The best span of each example and what is known about it.

        Returns:
            Dict of `start`, `end` int32 [B] (bytes of the context; 0, 0 where the context has no token), `log_span`,
            `log_none`, `log_total` float32 [B]: log-probabilities of the best span, of no answer, and of everything.
        """
        import tensorflow as tf

        windows = self.windows(question, context)
        count = tf.shape(windows["example"])[0]
        names = ("log_span", "log_all", "log_none", "start", "end")
        types = (tf.float32, tf.float32, tf.float32, tf.int32, tf.int32)

        def body(first, arrays):
            some = {name: value[first : first + WINDOWS_AT_ONCE] for name, value in windows.items()}
            found = self._read(some)
            index = first // WINDOWS_AT_ONCE
            return first + WINDOWS_AT_ONCE, tuple(
                array.write(index, found[name]) for array, name in zip(arrays, names, strict=True)
            )

        arrays = tuple(tf.TensorArray(kind, size=0, dynamic_size=True, infer_shape=False) for kind in types)
        _, arrays = tf.while_loop(lambda first, _: first < count, body, (0, arrays), parallel_iterations=1)
        found = {name: tf.ensure_shape(array.concat(), [None]) for name, array in zip(names, arrays, strict=True)}
        example, rows = windows["example"], tf.shape(question)[0]
        best = tf.math.unsorted_segment_max(found["log_span"], example, rows)
        is_best = tf.equal(found["log_span"], tf.gather(best, example))
        window = tf.math.unsorted_segment_min(tf.where(is_best, tf.range(count), count), example, rows)
        log_none = tf.math.unsorted_segment_min(found["log_none"], example, rows)
        # Every log-probability is <= 0 and the best of them is not tiny, so plain exp is safe.
        total = tf.math.unsorted_segment_sum(tf.exp(found["log_all"]), example, rows) + tf.exp(log_none)
        return {
            "start": tf.gather(found["start"], window),
            "end": tf.gather(found["end"], window),
            "log_span": best,
            "log_none": log_none,
            "log_total": tf.math.log(total),
        }

    def _read(self, windows):
        """One chunk of windows -> best span and masses of each window, [n] each."""
        import tensorflow as tf

        logits = self.model(
            {"question_ids": windows["question_ids"], "context_ids": windows["context_ids"]}, training=False
        )
        logs = tf.nn.log_softmax(tf.cast(logits, tf.float32))  # [n, 2, T + 1]
        spans = logs[:, 0, 1:, None] + logs[:, 1, None, 1:]  # [n, T, T]: start, end
        width = tf.shape(windows["ends"])[1]
        distance = tf.range(width)[None, :] - tf.range(width)[:, None]
        allowed = (distance >= 0) & (distance < self.config.lengths.max_answer_length)
        real = windows["ends"] > 0
        allowed = allowed[None] & real[:, :, None] & real[:, None, :]
        spans = tf.reshape(tf.where(allowed, spans, -1e9), [tf.shape(spans)[0], width * width])
        best = tf.argmax(spans, axis=1, output_type=tf.int32)
        return {
            "log_span": tf.reduce_max(spans, axis=1),
            "log_all": tf.reduce_logsumexp(spans, axis=1),
            "log_none": logs[:, 0, 0] + logs[:, 1, 0],
            "start": tf.gather(windows["starts"], best // width, batch_dims=1),
            "end": tf.gather(windows["ends"], best % width, batch_dims=1),
        }

    def details(self, question, context):
        """All that is known about each example: the answer, and the best span whether it is given as the answer or not.

        Returns:
            Dict of `answer`, `score`, `start`, `end` as `answer` gives them, and `best: string [B]`,
            `no_answer_score: float32 [B]` (log p(no answer) - log p(best span)).
        """
        import tensorflow as tf

        from keras_llm.text.unicode import sanitise

        context = sanitise(context)
        found = self.best_spans(question, context)
        start, end = found["start"], found["end"]
        no_answer_score = found["log_none"] - found["log_span"]
        # A context without any token has no span: its log-probability is the mask's.
        given = (no_answer_score <= self.settings["no_answer_threshold"]) & (found["log_span"] > -1e8)
        best = tf.strings.substr(context, start, end - start)

        def characters(position):
            before = tf.strings.substr(context, tf.zeros_like(position), position)
            return tf.where(given, tf.strings.length(before, unit="UTF8_CHAR"), -1)

        return {
            "answer": tf.where(given, best, ""),
            "score": tf.exp(tf.where(given, found["log_span"], found["log_none"]) - found["log_total"]),
            "start": characters(start),
            "end": characters(end),
            "best": best,
            "no_answer_score": no_answer_score,
        }

    def answer(self, question, context):
        found = self.details(question, context)
        return {name: found[name] for name in ("answer", "score", "start", "end")}

    def evaluate(self, records, tune=False):
        from keras_llm.metrics.reading import between_scores, evaluate_reading

        found = self.ask(records, function=self.trace(self.details))
        predictions = {
            record["id"]: {"answer": row["best"], "score": row["score"], "no_answer_score": row["no_answer_score"]}
            for record, row in zip(records, found, strict=True)
        }
        if tune:
            self.settings["no_answer_threshold"] = ALWAYS_ANSWER
            if any(record["impossible"] for record in records):
                best = evaluate_reading(records, predictions)["best_cmrc_f1_threshold"]  # in Chinese, too
                scores = [row["no_answer_score"] for row in found]
                self.settings["no_answer_threshold"] = between_scores(best, scores)
        threshold = self.settings["no_answer_threshold"]
        return evaluate_reading(records, predictions, threshold=threshold)


def _label(record: dict, starts: np.ndarray, ends: np.ndarray) -> tuple[int, int]:
    """First and last token (+ 1) of the first answer in a window, or 0, 0 where the window does not hold all of it."""
    if record["impossible"] or not record["answers"] or not len(starts):
        return 0, 0
    answer = record["answers"][0]
    begin = len(encode(record["context"][: answer["start"]]))
    end = begin + len(encode(answer["text"]))
    first = int(np.searchsorted(ends, begin, side="right"))
    last = int(np.searchsorted(starts, end, side="left")) - 1
    if begin < starts[0] or end > ends[-1] or first > last:
        return 0, 0
    return first + 1, last + 1
