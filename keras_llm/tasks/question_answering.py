"""What both kinds of question answering share: records with answers, bundled questions, batches bucketed by length."""

from __future__ import annotations

from keras_llm.tasks.base import Task


class QuestionAnswering(Task):
    """Subclasses give what `Task` asks for and what is named below.

    Attributes:
        length_feature: the prepared feature whose length decides an example's bucket.
    """

    # Counts Chinese by character and Latin by word: right for both languages, and for data that mixes them.
    monitor = "cmrc_f1"
    length_feature: str

    def bundled(self):
        from keras_llm.data.bundled import bundled

        return self.read(bundled("dev"))[0]

    def batches(self, prepared, multiple):
        from keras_llm.data.token_batches import bucketed

        features = self.length_feature, self.token_features
        return bucketed(prepared, self.config.training, *features, multiple, self.padding)

    def answers_table(self, records):
        rows = []
        for record, answer in zip(records, self.ask(records), strict=True):
            wanted = record["answers"]
            wanted = " / ".join(dict.fromkeys(a["text"] if isinstance(a, dict) else a for a in wanted)) or "(none)"
            rows.append([record["question"], answer["answer"] or "(none)", wanted, f"{answer['score']:.3f}"])
        return ["question", "predicted", "true", "score"], rows
