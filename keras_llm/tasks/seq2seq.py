"""One text for another: translation, summaries, titles."""

from __future__ import annotations

from keras_llm.tasks.encoder_decoder import EncoderDecoderTask
from keras_llm.tasks.writing import Writing


class Seq2Seq(EncoderDecoderTask, Writing):
    """Encoder-decoder from a source, put into the config's prompt, to its target.

    `answer(text: string [B])` decodes greedily and gives `answer: string [B]` and `score: float32 [B]`, the geometric
    mean of the probabilities of the answer's tokens (the end among them). `sample` and `beam` decode in other ways.

    Example:

    >>> task = keras_llm.load("runs/en-zh")
    >>> task.ask([{"text": "I like books."}])
    [{'answer': '我喜欢书。', 'score': 0.93}]
    """

    @staticmethod
    def read_files(paths, config):
        from keras_llm.data.parallel_text import read_parallel

        return read_parallel(paths, config.fields.text_field, config.fields.target_field)

    @staticmethod
    def texts(records):
        return (text for record in records for text in (record["text"], *record["targets"]))

    @staticmethod
    def record(identifier, text, targets):
        return {"id": identifier, "text": text, "targets": targets}

    @staticmethod
    def pair(record):
        return record["text"], record["targets"][0]

    def requests(self, records):
        return [{"text": record["text"]} for record in records]

    @property
    def source_limit(self):
        return self.config.lengths.max_source_length
