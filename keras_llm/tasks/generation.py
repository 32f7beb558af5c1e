"""Responses to prompts, one or several in turn, by a causal language model."""

from __future__ import annotations

import itertools

import numpy as np

from keras_llm.tasks.base import encode
from keras_llm.tasks.continuing import Continuing
from keras_llm.tasks.writing import Writing

TURN = "[TURN]"  # parts the turns of a conversation in a request
PREPARED_AT_ONCE = 256  # records


class Generation(Continuing, Writing):
    """A causal language model that learns responses: the loss counts their tokens only, each with an end behind it.

    `answer(text: string [B])` writes the response greedily and gives `answer: string [B]` and `score: float32 [B]`, the geometric
    mean of the probabilities of the answer's tokens (the end among them). `sample` and `beam` decode in other ways. Earlier
    turns stand before the prompt, parted by `[TURN]`: prompt, response, prompt. Of conversations longer than the
    context, the last tokens are read.

    The model reads: start id, first prompt in the config's `prompt`, response, end id, next prompt in `prompt`, and so on.
    Its weights are those of kind causal_lm.

    Example:

    >>> task = keras_llm.load("runs/chat")
    >>> task.ask([{"text": "你好[TURN]你好！[TURN]你会写诗吗？"}])[0]["answer"]
    '会。'
    """

    length_feature = "token_ids"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Earlier responses are read as they were learnt, however long a text may become that is written now.
        self.response_limit = self.longest

    @staticmethod
    def read_files(paths, config):
        from keras_llm.data.conversations import read_conversations

        return read_conversations(paths, config.fields.text_field, config.fields.target_field)

    @staticmethod
    def texts(records):
        return (text for record in records for text in (*record["turns"], *record["targets"][1:]))

    @staticmethod
    def record(identifier, text, targets):
        return {"id": identifier, "turns": [text, targets[0]], "targets": targets}

    def requests(self, records):
        # A mark that a turn itself holds parts nothing.
        turns = ([turn.replace(TURN, "[ TURN ]") for turn in record["turns"][:-1]] for record in records)
        return [{"text": TURN.join(some)} for some in turns]

    def drawn_inputs(self, records):
        row = next(iter(self.prepare(records[:1])))
        return {"token_ids": row["token_ids"][None]}

    # string -> ids

    def turn_ids(self, turns):
        """Prompts and responses in turn to ids.

        Args:
            turns: ragged string [B, (n)].

        Returns:
            int32 [B, (m)]: prompts in their template; responses, cut at `max_answer_length`, with an end id unless they are cut;
            and bool of all ids, flat: whether one belongs to a response.
        """
        import tensorflow as tf

        tokenizer, limit = self.tokenizer, self.response_limit
        number = tf.ragged.range(turns.row_lengths()).values
        response = number % 2 == 1
        ids = tf.cast(tokenizer.encode(tf.where(response, turns.values, self.prompted(turns.values))), tf.int32)
        lengths = ids.row_lengths()
        kept = tf.ragged.range(lengths).values < limit
        ids = tf.ragged.boolean_mask(ids, ids.with_values(kept | ~tf.repeat(response, lengths)))
        ends = tf.cast(response & (lengths <= limit), tf.int64)
        end = tf.RaggedTensor.from_row_lengths(tf.fill([tf.reduce_sum(ends)], tokenizer.end_id), ends)
        ids = tf.concat([ids, end], axis=1)
        return turns.with_values(ids).merge_dims(1, 2), tf.repeat(response, ids.row_lengths())

    def prompt_ids(self, text):
        from keras_llm.text.filling import split_at_marks
        from keras_llm.text.unicode import sanitise

        turns, _ = split_at_marks(sanitise(text), TURN)
        return self.turn_ids(turns)[0]

    def prepare(self, records):
        """Rows of `token_ids`, of which the last that fit the context, and `response`, 1 where a token is learnt."""
        import tensorflow as tf

        signature = tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int64)
        function = self.traced(self._conversation_ids, *signature)
        room, records = self.config.network.context_length + 1, iter(records)
        while batch := list(itertools.islice(records, PREPARED_AT_ONCE)):
            turns = [encode(turn) for record in batch for turn in record["turns"]]
            ids, splits, response = function(
                tf.constant(turns), tf.constant([len(record["turns"]) for record in batch], tf.int64)
            )
            ids, splits, response = ids.numpy(), splits.numpy(), response.numpy()
            for begin, end in itertools.pairwise(splits):
                yield {
                    "token_ids": np.concatenate([[self.tokenizer.start_id], ids[begin:end]]).astype("int32")[-room:],
                    "response": np.concatenate([[0], response[begin:end]]).astype("int32")[-room:],
                }

    def _conversation_ids(self, turns, counts):
        import tensorflow as tf

        ids, response = self.turn_ids(tf.RaggedTensor.from_row_lengths(turns, counts))
        return ids.values, ids.row_splits, response

    def batches(self, prepared, multiple):
        from keras_llm.data.token_batches import bucketed

        return bucketed(prepared, self.config.training, self.length_feature, self.token_features, multiple)

    def split(self, batch):
        ids = batch["token_ids"]
        # Padding comes last and is not scored: causality hides it, no mask is needed.
        return {"token_ids": ids[:, :-1]}, ids[:, 1:], batch["response"][:, 1:].astype("float32")
