"""What tasks share whose records are documents of a corpus."""

from __future__ import annotations

from keras_llm.tasks.base import Task


class DocumentTask(Task):
    """Subclasses give what `Task` asks for; records are {"text": str}."""

    inputs = ("text",)
    monitor_mode = "min"

    @staticmethod
    def read_files(paths, config):
        from keras_llm.data.corpus import evaluation_corpus

        corpus = evaluation_corpus(paths, config.corpus)
        return [{"text": document} for document in corpus], corpus.report

    def bundled(self):
        from keras_llm.data.bundled import bundled
        from keras_llm.data.readers import read_squad

        contexts = (record["context"] for record in read_squad(bundled("dev"))[0])
        return [{"text": text} for text in dict.fromkeys(contexts)]
