"""What tasks share that evaluate their loss in the graph, batch by batch."""

from __future__ import annotations

from keras_llm.errors import UserError
from keras_llm.tasks.base import Task


class Summing(Task):
    """Subclasses give what `Task` asks for."""

    def summed(self, batches, method) -> dict[str, float]:
        """Sums over batches of what a method gives for each.

        Args:
            batches: (x, y, sample_weight) as `split` gives them.
            method: function (x, y, sample_weight) of tensors -> named scalars.
        """
        import tensorflow as tf

        function = self.traced(method)
        found: dict[str, float] = {}
        for batch in batches:
            for name, value in function(*tf.nest.map_structure(tf.constant, batch)).items():
                found[name] = found.get(name, 0.0) + float(value)
        if not found:
            raise UserError("Evaluation needs text. Received: documents without a single token. Give others.")
        return found

    @staticmethod
    def sums(logits, labels, weights):
        """Over a batch: labels that count, those that are the most probable one, their losses. Logits [..., V], others [...]."""
        import tensorflow as tf

        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        right = tf.cast(tf.argmax(logits, -1, tf.int32) == labels, tf.float32)
        return tf.reduce_sum(weights), tf.reduce_sum(weights * right), tf.reduce_sum(weights * losses)
