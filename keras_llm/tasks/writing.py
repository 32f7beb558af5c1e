"""What tasks share whose texts are compared with targets: by BLEU, ROUGE and exact match, and by the loss of the targets."""

from __future__ import annotations

import math

import numpy as np

from keras_llm.generation.bounds import DECODING, check_setting
from keras_llm.tasks.summing import Summing

# metric of the config -> (name in the results, direction)
MONITORS = {
    "bleu": ("bleu", "max"),
    "rouge": ("rouge_l", "max"),
    "exact": ("exact_match", "max"),
    "loss": ("loss", "min"),
}
EVALUATED_AT_ONCE = 32  # rows
DECODED_AT_ONCE = 64  # texts
SHOWN = 200  # characters of a text in a table


class Writing(Summing):
    """To be mixed with `Generating`. Subclasses give what `Task` asks for; records have "id" and "targets".

    Attributes:
        length_feature: the prepared feature by whose length examples are evaluated together.
    """

    inputs = ("text",)
    length_feature: str

    def __init__(self, config, tokenizer=None, vocabulary_size=None, precision=None):
        super().__init__(config, tokenizer, vocabulary_size, precision)
        self.monitor, self.monitor_mode = MONITORS[config.writing.metric]
        self.prefix, self.suffix = config.writing.prompt.split("{text}")
        self.decode_by()

    def decode_by(self, **settings):
        """Chooses `num_beams`, `length_penalty` and `no_repeat_ngram_size` of evaluations; the others are the config's."""
        for name in DECODING:
            value = settings.get(name, getattr(self.config.writing, name))
            check_setting(name, value)
            setattr(self, name, value)
        self._traces.clear()  # they are constants of the graphs

    def prompted(self, text):
        """string [B] -> string [B]: texts in their place in the prompt."""
        import tensorflow as tf

        return tf.strings.join([self.prefix, text, self.suffix])

    def bundled(self):
        from keras_llm.data.bundled import bundled
        from keras_llm.data.readers import read_pairs

        pairs, _ = read_pairs(bundled("dev"))
        return [self.record(pair["id"], pair["question"], pair["answers"]) for pair in pairs]

    @staticmethod
    def record(identifier: str, text: str, targets: list[str]) -> dict:
        """A record of a single source and its targets."""
        raise NotImplementedError

    def evaluate(self, records, tune=False):
        """`loss`, `perplexity` and `token_accuracy` over the targets' tokens given those before, and the scores of
        `metrics.text.evaluate_texts` of what the model writes: by beams, and greedily while training."""
        from keras_llm.metrics.text import evaluate_texts

        writing = self.config.writing
        judged = records
        if writing.max_judged and writing.max_judged < len(records):
            judged = [records[i] for i in np.linspace(0, len(records) - 1, writing.max_judged).astype(int)]
        texts = self.written(judged, beams=not tune or writing.beams_while_training)
        targets = [record["targets"] for record in judged]
        scores, self.metric_notes = evaluate_texts(texts, targets, writing.target_language)
        part = {"judged": len(judged)} if len(judged) < len(records) else {}  # those texts; the loss is that of all
        return {**scores, **part, **self.losses(records)}

    def losses(self, records) -> dict[str, float]:
        """Over the tokens of the targets: mean `loss`, `perplexity`, `token_accuracy` and `target_tokens`, their number."""
        from keras_llm.data.batches import Batches
        from keras_llm.data.prepared import in_memory

        rows = sorted(self.prepare(records), key=lambda row: len(row[self.length_feature]))
        batches = Batches(in_memory(rows), EVALUATED_AT_ONCE, shuffle=False, drop_remainder=False)
        found = self.summed((self.split(batches[i]) for i in range(batches.steps_per_epoch)), self._sums)
        loss = found["loss"] / found["tokens"]
        return {
            "loss": loss,
            "perplexity": math.exp(loss) if loss < 700 else math.inf,
            "token_accuracy": found["right"] / found["tokens"],
            "target_tokens": int(found["tokens"]),
        }

    def _sums(self, x, y, weights):
        tokens, right, loss = self.sums(self.model(x, training=False), y, weights)
        return {"tokens": tokens, "right": right, "loss": loss}

    def written(self, records, beams: bool = True) -> list[str]:
        """What the model writes for each record: the best of `num_beams` beams, or greedily."""
        requests = self.requests(records)
        # Texts of like length together: little is computed for padding.
        order = sorted(range(len(requests)), key=lambda i: len(requests[i]["text"]))
        function = self.trace(self.search if beams and self.num_beams > 1 else self.answer)
        found = self.ask([requests[i] for i in order], DECODED_AT_ONCE, function)
        texts = [""] * len(requests)
        for i, answer in zip(order, found, strict=True):
            texts[i] = answer["answer"]
        return texts

    def predictions(self, records):
        return {record["id"]: text for record, text in zip(records, self.written(records), strict=True)}

    def answers_table(self, records):
        requests = self.requests(records)
        rows = [
            [asked["text"][:SHOWN], found["answer"], " / ".join(record["targets"])[:SHOWN], f"{found['score']:.3f}"]
            for record, asked, found in zip(records, requests, self.ask(requests), strict=True)
        ]
        return ["text", "written", "target", "score"], rows
