"""What every task that writes text shares: greedy by `answer`, sampled by `sample`, the best of a few beams by `beam`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_llm.tasks.base import Signature

NUM_BEAMS = 4
UNLIMITED = 1_000_000  # tokens, more than any answer has

# Each setting of `sample` and `beam`: its default, which changes nothing, and other values that the proof goes through.
FILTERS = {"temperature": (1.0, 0.7, 0.0), "top_k": (0, 5), "top_p": (1.0, 0.9), "min_p": (0.0, 0.05)}
RULES = {
    "repetition_penalty": (1.0, 1.3),
    "no_repeat_ngram_size": (0, 2),
    "min_length": (0, 2),
    "max_length": (UNLIMITED, 3),
    "stop": ("", "的", ". "),
}
SETTINGS = {"seed": tuple(range(7)), "length_penalty": (1.0, 0.0, 2.0), **FILTERS, **RULES}


class Generating:
    """To be mixed into an `Answering` class, which gives `inputs`, `tokenizer`, `begin` and `longest`.

    Each way of decoding gives `answer: string [B]` and `score: float32 [B]`, the geometric mean of the probabilities of
    the answer's tokens (the end among them).

    Attributes:
        longest: the most tokens an answer has.
        num_beams: beams of `beam` and `search`.
        length_penalty, no_repeat_ngram_size: of `search`; those of `beam` are in the request.
    """

    longest: int
    num_beams = NUM_BEAMS
    length_penalty = 1.0
    no_repeat_ngram_size = 0

    def begin(self, **strings) -> dict:
        """String tensors [B] -> the arguments of `greedy`, `sample` and `beam_search` that say what is decoded."""
        raise NotImplementedError

    def used(self, **strings):
        """String tensors [B] -> int32 [B, P], padded at the right with -1: tokens before the answer that the rules count as
        used. None where the answer is a text of its own, as an encoder-decoder's."""
        return None

    @property
    def signatures(self):
        return {
            **super().signatures,
            "sample": Signature(self.sample, self.inputs, {"seed": SETTINGS["seed"], **FILTERS, **RULES}),
            "beam": Signature(self.beam, self.inputs, {"length_penalty": SETTINGS["length_penalty"], **RULES}),
        }

    def answer(self, **strings):
        """The most probable token again and again."""
        from keras_llm.generation.decode import greedy

        begun = self.begin(**strings)
        return self._finish(*greedy(**begun), begun["pad_id"])

    def sample(self, seed, temperature, top_k, top_p, min_p, stop, **others):
        """Draws the answer; all arguments are tensors [B], see `generation.decode.sample` and `generation.logits.Rules`.

        Equal requests with equal seeds get equal answers. `stop: string [B]` cuts the answer before its first occurrence;
        "" cuts nowhere. The score is the model's own, whatever the temperature.
        """
        from keras_llm.generation.decode import sample

        begun, rules = self._begin_with_rules(others)
        filters = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        ids, log_probs = sample(**begun, seed=seed, **filters, rules=rules)
        found = self._finish(ids, log_probs, begun["pad_id"], rules.max_length)
        return {**found, "answer": cut(found["answer"], stop)}

    def beam(self, length_penalty, stop, **others):
        """The best of `num_beams` beams; arguments as for `sample`, and see `generation.beam.beam_search`."""
        begun, rules = self._begin_with_rules(others)
        found = self._search(begun, length_penalty, rules)
        return {**found, "answer": cut(found["answer"], stop)}

    def search(self, **strings):
        """As `beam` with the task's own settings and no other rule: what evaluations by beams compare."""
        begun, rules = self._begin_with_rules({**strings, "no_repeat_ngram_size": self.no_repeat_ngram_size})
        return self._search(begun, self.length_penalty, rules)

    def stream(self, strings: dict[str, str], settings: dict[str, Any] | None = None, stop: Sequence[str] = ()):
        """Samples an answer in Python and gives it piece by piece; joined, the pieces are what `sample` gives.

        Args:
            strings: one request.
            settings: of `sample`, as values or as text; the others keep their defaults.
            stop: texts at which the answer ends, themselves left out.

        Yields:
            str; a piece never ends inside a character.

        Example:

        >>> for piece in keras_llm.load("runs/gpt").stream({"text": "Once"}, {"temperature": 0.7}):
        ...     print(piece, end="", flush=True)
        """
        import tensorflow as tf

        from keras_llm.generation.decode import sampling_chooser
        from keras_llm.generation.stream import stream, stream_text
        from keras_llm.tasks.base import encode

        way = self.signatures["sample"]
        chosen = way.example(strings) | way.settings_of(settings or {})
        chosen = {name: value for name, value in chosen.items() if name in SETTINGS}
        stop = [*stop, *filter(None, [chosen.pop("stop")])]
        filters = {name: chosen.pop(name) for name in ("seed", *FILTERS)}
        begun, rules = self._begin_with_rules(
            {name: tf.constant([encode(strings[name])]) for name in self.inputs} | chosen
        )
        begun.pop("forced", None)  # a single row is never ahead of another
        choose = sampling_chooser(begun["end_id"], begun["pad_id"], begun["max_length"], rules=rules, **filters)
        begun["step"] = tf.function(begun["step"], reduce_retracing=True)
        ids = (int(row[0]) for row in stream(choose, **begun, rules=rules))
        yield from stream_text(ids, lambda ids: self.text_of([ids]).numpy()[0].decode(), stop)

    def _search(self, begun, length_penalty, rules=None):
        import tensorflow as tf

        from keras_llm.generation.beam import beam_search

        ids, scores = beam_search(**begun, num_beams=self.num_beams, length_penalty=length_penalty, rules=rules)
        ids = ids[:, 0]
        length = _length(ids, begun["pad_id"], rules.max_length if rules else None)
        # Back from the score that compares lengths to the mean that `answer` gives.
        return {"answer": self.text_of(ids), "score": tf.exp(scores[:, 0] * length**length_penalty / length)}

    def _begin_with_rules(self, others):
        from keras_llm.generation.logits import Rules

        strings = {name: others.pop(name) for name in self.inputs}
        return self.begin(**strings), Rules(**others, prompt_ids=self.used(**strings))

    def _finish(self, ids, log_probs, pad_id, limit=None):
        return {"answer": self.text_of(ids), "score": mean_probability(ids, log_probs, pad_id, limit)}

    def text_of(self, ids):
        """What was written, int32 [B, T] -> string [B]."""
        return self.tokenizer.decode(ids)


def mean_probability(ids, log_probs, pad_id, limit=None):
    """The geometric mean of the tokens' probabilities: ids and log_probs [B, L] as `greedy` gives them -> float32 [B]."""
    import tensorflow as tf

    return tf.exp(tf.reduce_sum(log_probs, axis=1) / _length(ids, pad_id, limit))


def cut(text, stop):
    """Each text up to the first occurrence of its own stop string: string [B], string [B] -> string [B]."""
    import tensorflow as tf

    pattern = tf.strings.regex_replace(stop, r"[\\^$.|?*+()\[\]{}-]", r"\\\0")
    pattern = tf.strings.join(["(?s)", pattern, ".*"])

    def cut_row(row):
        return tf.strings.regex_replace(row[0], row[1], "", replace_global=False)

    found = tf.map_fn(cut_row, tf.stack([text, pattern], axis=1), fn_output_signature=tf.TensorSpec([], tf.string))
    return tf.where(stop == "", text, found)


def _length(ids, pad_id, limit=None):
    """Tokens of each row of ids [B, L], the end among them although it is not written, unless there was no room."""
    import tensorflow as tf

    room = tf.shape(ids)[1]
    room = room if limit is None else tf.maximum(tf.minimum(limit, room), 1)
    count = tf.reduce_sum(tf.cast(ids != pad_id, tf.int32), axis=1)
    return tf.cast(tf.minimum(count + 1, room), tf.float32)
