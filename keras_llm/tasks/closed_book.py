"""Closed-book question answering: a question in, an answer written from memory."""

from __future__ import annotations

import numpy as np

from keras_llm.tasks.base import encode
from keras_llm.tasks.generating import Generating
from keras_llm.tasks.question_answering import QuestionAnswering


class ClosedBook(Generating, QuestionAnswering):
    """Encoder-decoder from question to answer, trained by teacher forcing, decoded with a cache.

    `answer(question: string [B])` decodes greedily and gives `answer: string [B]` and `score: float32 [B]`, the geometric
    mean of the probabilities of the answer's tokens (the end among them). `sample` and `beam` decode in other ways.

    Example:

    >>> task = keras_llm.load("runs/memory")
    >>> task.ask([{"question": "What does LSTM stand for?"}])
    [{'answer': 'long short-term memory', 'score': 0.99}]
    """

    inputs = ("question",)
    length_feature = "source_ids"
    token_features = ("source_ids", "target_ids")

    @staticmethod
    def read_files(paths, config):
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

    @property
    def longest(self):
        return self.config.lengths.max_answer_length

    def begin(self, question):
        return self._loop(self.encode_question(question))

    def _loop(self, source_ids):
        """What every way of decoding begins with."""
        import tensorflow as tf

        # One step more than the longest answer, for the end id.
        length = self.longest + 1
        return {
            "step": self.model.step,
            "start_ids": tf.fill([tf.shape(source_ids)[0]], self.tokenizer.start_id),
            "state": self.model.start(source_ids, length),
            "end_id": self.tokenizer.end_id,
            "pad_id": self.tokenizer.pad_id,
            "max_length": length,
        }

    def evaluate(self, records, tune=False):
        from keras_llm.metrics.reading import evaluate_answers

        answers = self.ask(records)
        predictions = {record["id"]: answer["answer"] for record, answer in zip(records, answers, strict=True)}
        return evaluate_answers(records, predictions)
