"""A task as the two functions that become `.tflite` files: strings to strings, and ids to ids.

Both hold everything between: windows or the decode loop, and the choice of the answer. Only batches of one: an LSTM's loop
needs static shapes to become builtin ops.

Shapes: T context tokens, Q question tokens, W window length, L answer tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_llm.export.lite.sentencepiece import SentencePiece
from keras_llm.export.lite.text import bytes_of, code_points, string_of, utf8
from keras_llm.export.lite.tokenizers import Characters, LiteTokenizer, NotPossibleError, WordPiece
from keras_llm.tasks.base import plain
from keras_llm.tasks.generating import mean_probability

LITE_TOKENIZERS = {"wordpiece": WordPiece, "sentencepiece": SentencePiece, "characters": Characters}
# Below any log-probability, and exact in half precision, which would clip the -1e9 used elsewhere.
IMPOSSIBLE = -30000.0


@dataclasses.dataclass(frozen=True)
class LiteFunction:
    """What becomes one file.

    Attributes:
        function: named tensors -> named tensors.
        signature: its inputs.
        request: strings as bytes -> the function's inputs as arrays.
        answer: the strings and the function's outputs as arrays -> the answer as `task.ask` gives it.
    """

    function: Callable[..., dict]
    signature: dict[str, tf.TensorSpec]
    request: Callable[[dict], dict]
    answer: Callable[[dict, dict], dict]

    def trace(self):
        """The graph."""
        return tf.function(self.function, autograph=False).get_concrete_function(**self.signature)


def string_function(task) -> LiteFunction:
    """Strings [1] in, what `task.answer` gives [1] out.

    Raises:
        NotPossibleError: this tokenizer has no form in TFLite.
    """
    make = {"reading": _reading_strings, "closed_book": _closed_book_strings}[task.config.kind]
    return LiteFunction(
        make(task, lite_tokenizer(task.tokenizer)),
        {name: tf.TensorSpec([1], tf.string, name=name) for name in task.inputs},
        lambda strings: {name: np.array([strings[name]], object) for name in task.inputs},
        lambda strings, outputs: {name: plain(value[0]) for name, value in outputs.items()},
    )


def ids_function(task) -> LiteFunction:
    """Ids [1, any length] in, ids out, with builtin ops only."""
    return {"reading": _reading_ids, "closed_book": _closed_book_ids}[task.config.kind](task)


def lite_tokenizer(tokenizer) -> LiteTokenizer:
    """The form of a tokenizer that runs in TFLite.

    Raises:
        NotPossibleError: there is none.
    """
    if tokenizer.kind not in LITE_TOKENIZERS:
        raise NotPossibleError(
            f"the tokenizer {tokenizer.kind} has no form in TFLite, which has no builtin op for tables of strings; "
            f"{', '.join(LITE_TOKENIZERS)} have string files"
        )
    return LITE_TOKENIZERS[tokenizer.kind](tokenizer)


def _reading_strings(task, tokenizer):
    def answer(question, context):
        question_ids = tokenizer.encode(code_points(bytes_of(question)), task.config.lengths.max_question_length)
        points = code_points(bytes_of(context))
        context_ids, starts, ends = tokenizer.encode_with_places(points)
        found = _read(task, question_ids, context_ids)
        # One more entry, so that there is something to point at where there is no token.
        start = tf.gather(tf.concat([starts, [0]], 0), tf.maximum(found["start"], 0))
        end = tf.gather(tf.concat([ends, [0]], 0), tf.maximum(found["end"] - 1, 0))
        given = found["start"] >= 0
        size = tf.where(given, end - start, 0)
        return {
            "answer": string_of(utf8(tf.slice(points, tf.where(given, start, 0), size))),
            "score": found["score"],
            "start": tf.where(given, start, -1),
            "end": tf.where(given, end, -1),
        }

    return answer


def _reading_ids(task):
    def span(question_ids, context_ids):
        return _read(task, question_ids[0], context_ids[0])

    def request(strings):
        ids = {name: task.tokenizer.encode([strings[name]])[0].numpy() for name in task.inputs}
        return {f"{name}_ids": values[None].astype("int32") for name, values in ids.items()}

    def answer(strings, outputs):
        start, end, score = (outputs[name][0].item() for name in ("start", "end", "score"))
        if start < 0:
            return {"answer": "", "score": score, "start": -1, "end": -1}
        _, starts, ends = task.tokenizer.encode_with_offsets([strings["context"]])
        context = strings["context"].decode("utf-8", "replace").encode()
        first, last = (len(context[: place[0, i]].decode()) for place, i in ((starts, start), (ends, end - 1)))
        return {"answer": context.decode()[first:last], "score": score, "start": first, "end": last}

    names = ("question_ids", "context_ids")
    signature = {name: tf.TensorSpec([1, None], tf.int32, name=name) for name in names}
    return LiteFunction(span, signature, request, answer)


def _read(task, question_ids, context_ids):
    """The best span over all windows, as `Reading.details` finds it, one window at a time.

    Args:
        question_ids: int32 [Q].
        context_ids: int32 [T].

    Returns:
        start, end: int32 [1], tokens of the context, end exclusive, -1 for no answer; score float32 [1].
    """
    lengths = task.config.lengths
    width, advance = lengths.window_length, lengths.window_length - lengths.window_stride
    question = _fixed(question_ids, lengths.max_question_length)
    size = tf.size(context_ids)
    padded = tf.concat([context_ids, tf.zeros([width], tf.int32)], 0)
    count = 1 + (tf.maximum(size - width, 0) + advance - 1) // advance
    distance = tf.range(width)[None, :] - tf.range(width)[:, None]
    near = (distance >= 0) & (distance < lengths.max_answer_length)

    def body(window, best, start, end, total, nothing):
        first = window * advance
        context = tf.reshape(tf.slice(padded, first[None], [width]), [1, width])
        logits = task.model({"question_ids": question, "context_ids": context}, training=False)
        logs = tf.nn.log_softmax(tf.cast(logits, tf.float32))[0]  # [2, W + 1]
        real = first + tf.range(width) < size
        spans = logs[0, 1:, None] + logs[1, None, 1:]  # [W, W]: start, end
        spans = tf.reshape(tf.where(near & real[:, None] & real[None, :], spans, IMPOSSIBLE), [width * width])
        place = tf.argmax(spans, output_type=tf.int32)
        highest = tf.reduce_max(spans)
        none = logs[0, 0] + logs[1, 0]
        better = (window == 0) | (highest > best)
        return (
            window + 1,
            tf.where(better, highest, best),
            tf.where(better, first + place // width, start),
            tf.where(better, first + place % width + 1, end),
            total + tf.reduce_sum(tf.exp(spans)),
            tf.where(window == 0, none, tf.minimum(none, nothing)),
        )

    zero, number = tf.constant(0), tf.constant(0.0)
    _, best, start, end, total, nothing = tf.while_loop(
        lambda window, *_: window < count, body, (zero, number, zero, zero, number, number), parallel_iterations=1
    )
    given = (nothing - best <= task.settings["no_answer_threshold"]) & (size > 0)
    score = tf.exp(tf.where(given, best, nothing)) / (total + tf.exp(nothing))
    return {
        "score": score[None],
        "start": tf.where(given, start, -1)[None],
        "end": tf.where(given, end, -1)[None],
    }


def _closed_book_strings(task, tokenizer):
    def answer(question):
        ids = tokenizer.encode(code_points(bytes_of(question)), task.config.lengths.max_question_length)
        found = _write(task, ids)
        return {"answer": string_of(utf8(tokenizer.decode(found["ids"][0]))), "score": found["score"]}

    return answer


def _closed_book_ids(task):
    def write(question_ids):
        return _write(task, question_ids[0])

    def request(strings):
        return {"question_ids": task.tokenizer.encode([strings["question"]])[0].numpy()[None].astype("int32")}

    def answer(strings, outputs):
        return {"answer": plain(task.tokenizer.decode(outputs["ids"]).numpy()[0]), "score": outputs["score"][0].item()}

    signature = {"question_ids": tf.TensorSpec([1, None], tf.int32, name="question_ids")}
    return LiteFunction(write, signature, request, answer)


def _write(task, question_ids):
    """The answer's ids int32 [1, L] to question ids int32 [Q], and its score float32 [1]."""
    limit = task.config.lengths.max_question_length
    ids = tf.concat([question_ids[:limit], [task.tokenizer.end_id]], 0)
    ids, log_probs = task.decode_ids(_fixed(ids, limit + 1))
    return {"ids": ids, "score": mean_probability(ids, log_probs, task.tokenizer.pad_id)}


def _fixed(ids, size):
    """int32 [any] -> [1, size], cut or padded."""
    return tf.reshape(tf.concat([ids, tf.zeros([size], tf.int32)], 0)[:size], [1, size])
