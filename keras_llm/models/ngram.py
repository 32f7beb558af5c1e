"""The n-gram language model: counts in place of weights, asked like every other language model.

Shapes: B batch, T length, P prompt length, R rows, V vocabulary, n order.
"""

import re
from collections.abc import Mapping

import keras
import numpy as np

from keras_llm.config import ModelConfig
from keras_llm.errors import UserError
from keras_llm.models.kneser_ney import uniform

PAD = 0


class NGramModel(keras.Model):
    """A back-off trie, searched inside the TensorFlow graph.

    An n-gram that is stored has its log-probability; one that is not has that of the n-gram without its first token, plus
    the back-off weight of its context. Nothing is trained: `kneser_ney` estimates the arrays.

    Args:
        arrays: what `kneser_ney` or `arrays` returns.

    Call: {"token_ids": int [B, T]} -> log-probabilities float32 [B, T, V], row t of the token t + 1. Id 0 is padding; padding
    and start id have -1e30. Rows begin with the start id, and a context never reaches beyond its row.

    Attributes:
        vocabulary_size: V.
        order: n.

    Raises:
        UserError: the arrays are not those of an n-gram model, or Keras does not run on TensorFlow.

    Example:

    >>> ids, splits = np.array([2, 4, 5, 4, 5, 3]), np.array([0, 6])
    >>> model = NGramModel(kneser_ney(ids, splits, vocabulary_size=6, order=3))
    >>> model({"token_ids": ids[None]}).shape, model.log_probs(ids[None]).shape
    (TensorShape([1, 6, 6]), TensorShape([1, 5]))

    Reference: Chen and Goodman 1998, https://arxiv.org/abs/cmp-lg/9808002.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], **kwargs):
        if keras.backend.backend() != "tensorflow":
            raise UserError(
                f"An n-gram model runs on TensorFlow. Received: KERAS_BACKEND={keras.backend.backend()}. Set it to tensorflow."
            )
        super().__init__(**kwargs)
        self.order = _checked_order(arrays)
        self.vocabulary_size = len(arrays["log_probs_1"])
        # By order, from 1 on; the highest order is no context and has no back-off weights.
        self._log_probs = [self._stored(arrays, f"log_probs_{k}") for k in range(1, self.order + 1)]
        self._back_offs = [self._stored(arrays, f"back_offs_{k}") for k in range(1, self.order)]
        self._keys = [None, *(self._stored(arrays, f"keys_{k}") for k in range(2, self.order + 1))]
        # The node that nothing is stored below. In order 1 it is padding, which no text has.
        self._absent = [PAD, *(len(arrays[f"keys_{k}"]) - 1 for k in range(2, self.order + 1))]
        self.built = True

    @classmethod
    def untrained(cls, vocabulary_size: int, config: ModelConfig, dtype=None) -> "NGramModel":
        """A model that has counted nothing: all ids but padding and start are equally probable."""
        return cls(uniform(vocabulary_size))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "NGramModel":
        """The model of stored arrays, names -> NumPy: the counterpart of `arrays`."""
        return cls(arrays)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything the model is made of, by name."""
        return {weight.name: weight.value.numpy() for weight in self.weights}

    def count_params(self) -> int:
        """The number of stored probabilities and back-off weights."""
        stored = self._log_probs + self._back_offs
        return sum(weight.shape[0] for weight in stored) - (2 * self.order - 3 if self.order > 1 else 0)

    def count_ngrams(self) -> list[int]:
        """The number of stored n-grams of each order, from 1 on."""
        return [self.vocabulary_size, *self._absent[1:]]

    def call(self, inputs):
        import tensorflow as tf

        ids = tf.cast(inputs["token_ids"], tf.int64)
        contexts = [tf.reshape(nodes, [-1]) for nodes in self._nodes(ids, self.order - 1)]
        logits = self._distributions(contexts, tf.size(ids))
        return tf.reshape(logits, tf.concat([tf.shape(ids), [self.vocabulary_size]], 0))

    def start(self, ids, count, length):
        """The state after the first `count` columns of `ids` int [B, P]: the last n - 1 tokens, int32 [B, n - 1].

        `length`, the most tokens to come, makes no difference: the state's size is fixed.
        """
        import tensorflow as tf

        ids = tf.pad(tf.cast(ids, tf.int32), [[0, 0], [self.order - 1, 0]], constant_values=PAD)
        state = ids[:, count : count + self.order - 1]
        return tf.ensure_shape(state, [ids.shape[0], self.order - 1])

    def step(self, ids, state):
        """The next token's log-probabilities float32 [B, V] after `ids` int [B], and the new state."""
        import tensorflow as tf

        state = tf.concat([state, tf.cast(ids, tf.int32)[:, None]], 1)[:, 1:]  # [B, n - 1]
        contexts = [nodes[:, -1] for nodes in self._nodes(tf.cast(state, tf.int64), self.order - 1)]
        return self._distributions(contexts, tf.shape(ids)[0]), state

    def log_probs(self, ids):
        """Each token's log-probability given those before it in its row; 0.0 for padding.

        Args:
            ids: int [B, T]; rows begin with the start id.

        Returns:
            float32 [B, T - 1], of the tokens from the second on.
        """
        import tensorflow as tf

        ids = tf.cast(ids, tf.int64)
        nodes = self._nodes(ids, self.order)
        result = tf.gather(_read(self._log_probs[0]), ids[:, 1:])
        for k in range(1, self.order):
            node, context = nodes[k][:, 1:], nodes[k - 1][:, :-1]
            backed_off = result + tf.gather(_read(self._back_offs[k - 1]), context)
            result = tf.where(tf.equal(node, self._absent[k]), backed_off, tf.gather(_read(self._log_probs[k]), node))
        return tf.where(tf.equal(ids[:, 1:], PAD), 0.0, result)

    def _nodes(self, ids, longest):
        """For each length from 1 to `longest`: the nodes int64 [B, T] of the n-grams that end at each token of `ids` [B, T]."""
        import tensorflow as tf

        nodes = [ids][:longest]
        for k in range(1, longest):
            before = tf.pad(nodes[-1][:, :-1], [[0, 0], [1, 0]], constant_values=self._absent[k - 1])
            wanted = before * self.vocabulary_size + ids
            places = self._search(k, wanted)
            found = tf.equal(tf.gather(_read(self._keys[k]), places), wanted)
            nodes.append(tf.where(found, places, tf.cast(self._absent[k], tf.int64)))
        return nodes

    def _distributions(self, contexts, rows):
        """Log-probabilities [R, V] after contexts: for each length from 1 to n - 1 the nodes int64 [R]."""
        import tensorflow as tf

        unigrams = tf.broadcast_to(_read(self._log_probs[0]), tf.stack([rows, self.vocabulary_size]))
        if not contexts:
            return unigrams
        weights = [tf.gather(_read(w), nodes) for w, nodes in zip(self._back_offs, contexts, strict=True)]
        # A token found below a context is weighed by the back-off weights of all longer contexts. [R] for each length
        longer = tf.unstack(tf.cumsum(tf.stack(weights), exclusive=True, reverse=True))
        logits = unigrams + (longer[0] + weights[0])[:, None]
        for k, nodes in enumerate(contexts, start=1):
            # A node's children lie side by side: ragged [R, (children)] as flat places and the row of each.
            first, last = tf.unstack(self._search(k, tf.stack([nodes, nodes + 1]) * self.vocabulary_size))
            children = tf.ragged.range(first, last)
            places = children.flat_values
            row = tf.searchsorted(children.row_splits, tf.range(tf.size(places, tf.int64)), "right", tf.int64) - 1
            tokens = tf.gather(_read(self._keys[k]), places) - tf.gather(nodes, row) * self.vocabulary_size
            values = tf.gather(_read(self._log_probs[k]), places) + tf.gather(longer[k - 1], row)
            logits = tf.tensor_scatter_nd_update(logits, tf.stack([row, tokens], 1), values)
        return logits

    def _search(self, k, wanted):
        """Where the first key of order k + 1 stands that is not below `wanted`, int64 of any shape."""
        import tensorflow as tf

        places = tf.searchsorted(_read(self._keys[k]), tf.reshape(wanted, [-1]), out_type=tf.int64)
        return tf.reshape(places, tf.shape(wanted))

    def _stored(self, arrays, name):
        array = np.asarray(arrays[name])
        return self.add_weight(
            name=name,
            shape=array.shape,
            dtype=array.dtype.name,
            initializer=lambda shape, dtype: array,
            trainable=False,
            autocast=False,
        )


def _read(weight):
    """A table as a tensor, which is not copied.

    Gathering from the variable itself would make TensorFlow copy all of it at every later read (ResourceGather sets
    `copy_on_read_mode`).
    """
    import tensorflow as tf

    return tf.convert_to_tensor(weight.value)


def _checked_order(arrays):
    """The order of a model's arrays, which must be whole and fit each other."""
    order = max((int(name[10:]) for name in arrays if re.fullmatch(r"log_probs_[1-9]\d*", name)), default=0)
    dtypes = {f"log_probs_{k}": "float32" for k in range(1, order + 1)}
    dtypes |= {f"back_offs_{k}": "float32" for k in range(1, order)}
    dtypes |= {f"keys_{k}": "int64" for k in range(2, order + 1)}
    odd = set(dtypes) ^ set(arrays)
    odd |= {n for n in set(dtypes) & set(arrays) if np.dtype(arrays[n].dtype) != dtypes[n] or arrays[n].ndim != 1}
    odd |= {n for n in set(dtypes) - odd if len(arrays[n]) != len(arrays.get("log_probs_" + n.split("_")[-1], ()))}
    if odd or not order:
        raise UserError(
            "The arrays of an n-gram model are log_probs, back_offs and keys of every order, as `kneser_ney` makes them. "
            f"Received: {', '.join(sorted(arrays)) or 'none'}; not right: {', '.join(sorted(odd)) or 'all'}. Train it anew."
        )
    return order
