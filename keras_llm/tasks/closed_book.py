"""Closed-book question answering: a question in, an answer written from memory."""

from __future__ import annotations

import numpy as np

from keras_llm.tasks.base import Signature, Task, encode

NUM_BEAMS = 4


class ClosedBook(Task):
    """Encoder-decoder from question to answer, trained by teacher forcing, decoded with a cache.

    `answer(question: string [B])` decodes greedily and gives `answer: string [B]` and `score: float32 [B]`, the geometric
    mean of the probabilities of the answer's tokens (the end among them). `sample` and `beam` decode in other ways.

    Example:

    >>> task = keras_llm.load("runs/memory")
    >>> task.ask([{"question": "What does LSTM stand for?"}])
    [{'answer': 'long short-term memory', 'score': 0.99}]
    """

    inputs = ("question",)
    # Counts Chinese by character and Latin by word: right for both languages, and for data that mixes them.
    monitor = "cmrc_f1"
    length_feature = "source_ids"
    token_features = ("source_ids", "target_ids")

    @staticmethod
    def read(paths):
        from keras_llm.data.readers import read_pairs

        return read_pairs(paths)

    @staticmethod
    def texts(records):
        return (text for record in records for text in (record["question"], record["answer"]))

    def example_inputs(self):
        return {"source_ids": np.array([[2, 3]], "int32"), "target_ids": np.array([[2, 3]], "int32")}

    def encode_question(self, question):
        """string [B] -> int32 [B, S]: the question's ids, cut at the limit, and the end id."""
        import tensorflow as tf

        limit = self.config.lengths.max_question_length
        ids = self.tokenizer.encode(question)[:, :limit]
        end = tf.fill([tf.shape(question)[0], 1], self.tokenizer.end_id)
        ids = tf.concat([ids, tf.cast(end, ids.dtype)], axis=1).to_tensor(default_value=self.tokenizer.pad_id)
        # A batch of no questions has no column either; an LSTM needs one.
        return tf.pad(ids, [[0, 0], [0, tf.cast(tf.shape(ids)[1] == 0, tf.int32)]])

    def prepare(self, records):
        import tensorflow as tf

        limit = self.config.lengths.max_answer_length
        tokenizer = self.tokenizer

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)] * 2, autograph=False)
        def to_ids(question, answer):
            return self.encode_question(question), tokenizer.encode(answer)[:, :limit].to_tensor(tokenizer.pad_id)

        records = list(records)
        for first in range(0, len(records), 256):
            batch = records[first : first + 256]
            sources, targets = to_ids(
                tf.constant([encode(record["question"]) for record in batch]),
                tf.constant([encode(record["answer"]) for record in batch]),
            )
            for source, target in zip(sources.numpy(), targets.numpy(), strict=True):
                target = target[target != tokenizer.pad_id]
                yield {
                    "source_ids": source[source != tokenizer.pad_id].astype("int32"),
                    "target_ids": np.concatenate([[tokenizer.start_id], target, [tokenizer.end_id]]).astype("int32"),
                }

    def split(self, batch):
        target = batch["target_ids"]
        labels = target[:, 1:]
        x = {"source_ids": batch["source_ids"], "target_ids": target[:, :-1]}
        return x, labels, (labels != 0).astype("float32")

    def decode_ids(self, source_ids):
        """int32 [B, S] -> the answer's ids int32 [B, L] and their log-probabilities float32 [B, L]."""
        from keras_llm.generation.decode import greedy

        return greedy(**self._loop(source_ids))

    def answer(self, question):
        return self._finish(*self.decode_ids(self.encode_question(question)))

    @property
    def signatures(self):
        lengths = {"min_length": (0, 2), "max_length": (self.config.lengths.max_answer_length, 3)}
        rules = {"repetition_penalty": (1.0, 1.3), "no_repeat_ngram_size": (0, 2), **lengths, "stop": ("", "的", ". ")}
        filters = {"temperature": (1.0, 0.7, 0.0), "top_k": (0, 5), "top_p": (1.0, 0.9), "min_p": (0.0, 0.05)}
        return {
            **super().signatures,
            "sample": Signature(self.sample, self.inputs, {"seed": tuple(range(7)), **filters, **rules}),
            "beam": Signature(self.beam, self.inputs, {"length_penalty": (1.0, 0.0, 2.0), **rules}),
        }

    def sample(self, question, seed, temperature, top_k, top_p, min_p, **rules):
        """Draws the answer; all arguments are tensors [B], see `generation.decode.sample` and `generation.logits.Rules`.

        Equal requests with equal seeds get equal answers. `stop: string [B]` cuts the answer before its first occurrence;
        "" cuts nowhere. The score is the model's own, whatever the temperature.
        """
        from keras_llm.generation.decode import sample

        stop = rules.pop("stop")
        filters = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        loop = self._loop(self.encode_question(question))
        found = self._finish(*sample(**loop, seed=seed, **filters, rules=self._rules(rules)), rules["max_length"])
        return {**found, "answer": _cut(found["answer"], stop)}

    def beam(self, question, length_penalty, **rules):
        """The best of `NUM_BEAMS` beams; arguments as for `sample`, and see `generation.beam.beam_search`."""
        import tensorflow as tf

        from keras_llm.generation.beam import beam_search

        stop = rules.pop("stop")
        ids, scores = beam_search(
            **self._loop(self.encode_question(question)),
            num_beams=NUM_BEAMS,
            length_penalty=length_penalty,
            rules=self._rules(rules),
        )
        ids = ids[:, 0]
        length = self._length(ids, rules["max_length"])
        # Back from the score that compares lengths to the mean that `answer` gives.
        score = tf.exp(scores[:, 0] * length**length_penalty / length)
        return {"answer": _cut(self.tokenizer.decode(ids), stop), "score": score}

    def _loop(self, source_ids):
        """What every way of decoding begins with."""
        import tensorflow as tf

        # One step more than the longest answer, for the end id.
        length = self.config.lengths.max_answer_length + 1
        return {
            "step": self.model.step,
            "start_ids": tf.fill([tf.shape(source_ids)[0]], self.tokenizer.start_id),
            "state": self.model.start(source_ids, length),
            "end_id": self.tokenizer.end_id,
            "pad_id": self.tokenizer.pad_id,
            "max_length": length,
        }

    @staticmethod
    def _rules(rules):
        from keras_llm.generation.logits import Rules

        return Rules(**rules)

    def _finish(self, ids, log_probs, limit=None):
        return {"answer": self.tokenizer.decode(ids), "score": self.score(ids, log_probs, limit)}

    def score(self, ids, log_probs, limit=None):
        """The geometric mean of the tokens' probabilities: ids and log_probs [B, L] as from `decode_ids` -> float32 [B]."""
        import tensorflow as tf

        return tf.exp(tf.reduce_sum(log_probs, axis=1) / self._length(ids, limit))

    def _length(self, ids, limit=None):
        """Tokens of each row of ids [B, L], the end among them although it is not written, unless there was no room."""
        import tensorflow as tf

        room = tf.shape(ids)[1]
        room = room if limit is None else tf.maximum(tf.minimum(limit, room), 1)
        count = tf.reduce_sum(tf.cast(ids != self.tokenizer.pad_id, tf.int32), axis=1)
        return tf.cast(tf.minimum(count + 1, room), tf.float32)

    def evaluate(self, records, tune=False):
        from keras_llm.metrics.reading import evaluate_answers

        answers = self.ask(records)
        predictions = {record["id"]: answer["answer"] for record, answer in zip(records, answers, strict=True)}
        return evaluate_answers(records, predictions)


def _cut(text, stop):
    """Each text up to the first occurrence of its own stop string: string [B], string [B] -> string [B]."""
    import tensorflow as tf

    pattern = tf.strings.regex_replace(stop, r"[\\^$.|?*+()\[\]{}-]", r"\\\0")
    pattern = tf.strings.join(["(?s)", pattern, ".*"])

    def cut(row):
        return tf.strings.regex_replace(row[0], row[1], "", replace_global=False)

    found = tf.map_fn(cut, tf.stack([text, pattern], axis=1), fn_output_signature=tf.TensorSpec([], tf.string))
    return tf.where(stop == "", text, found)
