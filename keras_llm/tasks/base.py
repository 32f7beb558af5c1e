"""What every task is: a tokenizer and a model joined to meaning."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from keras_llm.config import Config, FieldConfig
from keras_llm.errors import UserError
from keras_llm.generation.bounds import check_setting
from keras_llm.settings_of_kinds import OBEYED


@dataclasses.dataclass(frozen=True)
class Signature:
    """One way to ask an exported model.

    Attributes:
        method: named tensors [B] -> named tensors [B].
        texts: names of the inputs that hold the request's strings.
        settings: each other input and values it may take; the proof and the warm-up go through them. All float, all int or
            all str: that is the input's dtype.
        count: name of the output that says how many columns of the others a row has; the columns behind are padding. "": none
            are.
    """

    method: Callable[..., dict]
    texts: Sequence[str]
    settings: dict[str, Sequence] = dataclasses.field(default_factory=dict)
    count: str = ""

    @property
    def inputs(self) -> dict[str, str]:
        """Name -> dtype of every input."""
        dtypes = {float: "float32", int: "int32", str: "string"}
        return dict.fromkeys(self.texts, "string") | {name: dtypes[type(v[0])] for name, v in self.settings.items()}

    def settings_of(self, given: dict[str, Any]) -> dict[str, Any]:
        """Values or texts by name -> values of the settings' dtypes; UserError where a name or a value does not fit."""
        dtypes = {name: dtype for name, dtype in self.inputs.items() if name not in self.texts}
        return {name: setting_value(name, value, dtypes) for name, value in given.items()}

    def without_padding(self, answer: dict[str, Any]) -> dict[str, Any]:
        """One row's outputs, the padding of the batch left out."""
        if not self.count:
            return answer
        filled = int(answer[self.count])
        return {name: value if name == self.count else value[:filled] for name, value in answer.items()}

    def example(self, strings: dict[str, str], place: int = 0) -> dict[str, Any]:
        """A request: the strings, and settings that change with `place`, each by itself; at 0 the first of each."""
        chosen = {
            name: random.Random(f"{name} {place}").choice(values) if place else values[0]
            for name, values in self.settings.items()
        }
        return {name: strings[name] for name in self.texts} | chosen


def setting_value(name: str, value: Any, dtypes: dict[str, str]) -> Any:
    """A setting's value, given as such or as text, in its dtype.

    Raises:
        UserError: no such setting, not a value of its dtype, or out of its bounds.

    Example:

    >>> setting_value("top_k", "5", {"top_k": "int32"})
    5
    """
    if name not in dtypes:
        known = f"one of {', '.join(sorted(dtypes))}" if dtypes else "not known to this signature"
        raise UserError(f"A setting is {known}. Received: {name}.")
    convert = {"float32": float, "int32": int, "string": str}[dtypes[name]]
    try:
        number = convert(value)
        if convert is int and not -(2**31) <= number < 2**31:
            raise ValueError
    except ValueError:
        raise UserError(f"The setting {name} must be {dtypes[name]}. Received: {value!r}.") from None
    check_setting(name, number)
    return number


class Answering:
    """Strings in, named tensors out, through one tokenizer and one model; traced once for each way to ask.

    Attributes:
        kind: what it is, in words of the command line.
        inputs: names of the string inputs of `answer`.
        tokenizer, model: what the graph contains.
        settings: small values that are constants of the graph, e.g. a threshold.
    """

    inputs: tuple[str, ...]

    def __init__(self, kind: str, tokenizer, model):
        self.kind = kind
        self.tokenizer = tokenizer
        self.model = model
        self.settings: dict[str, Any] = {}
        self._traces: dict = {}

    def answer(self, **strings) -> dict:
        """String tensors [B] -> named tensors [B, ...]; everything the export contains."""
        raise NotImplementedError

    @property
    def signatures(self) -> dict[str, Signature]:
        """All ways to ask an exported model; `serving_default` is `answer`."""
        return {"serving_default": Signature(self.answer, self.inputs)}

    def trace(self, method=None, inputs: dict[str, str] | None = None):
        """The graph of `answer`, or of another method, for any batch size.

        Args:
            method: takes and returns named tensors [B].
            inputs: name -> dtype of its inputs; default: the strings of `self.inputs`.

        The same graph serves ask, evaluate and export. It is made once for each method and settings.
        """
        import keras
        import tensorflow as tf

        if keras.config.backend() != "tensorflow":
            raise UserError(
                "Asking, evaluating and exporting need Keras on TensorFlow. "
                f"Received: KERAS_BACKEND={keras.config.backend()}. Unset KERAS_BACKEND."
            )
        method = method or self.answer
        # Settings are constants of the graph: another threshold is another graph.
        key = (method.__name__, tuple(sorted(self.settings.items())))
        if key not in self._traces:
            inputs = inputs or dict.fromkeys(self.inputs, "string")
            signature = {name: tf.TensorSpec([None], dtype, name=name) for name, dtype in inputs.items()}

            def function(**tensors):
                return method(**{name: tensors[name] for name in inputs})

            self._traces[key] = tf.function(function, autograph=False).get_concrete_function(**signature)
        return self._traces[key]

    def traced(self, method, *signature):
        """The graph of a method that is no way to ask, made once for each task: evaluations come again and again.

        Args:
            method: takes tensors.
            signature: their specs; none: as they come.
        """
        import tensorflow as tf

        key = method.__name__
        if key not in self._traces:
            self._traces[key] = tf.function(
                method, input_signature=signature or None, autograph=False, reduce_retracing=True
            )
        return self._traces[key]

    def ask(
        self,
        records: Iterable[dict[str, Any]],
        batch_size: int = 32,
        function=None,
        signature: str = "serving_default",
    ) -> list[dict[str, Any]]:
        """Answers in the order of the records.

        Args:
            records: dicts with the inputs of the graph: for `answer` the strings named in `inputs`.
            batch_size: how many go through the graph at once.
            function: a graph from `trace`; default: that of the signature.
            signature: a name in `signatures`.

        Returns:
            One dict a record: "answer", "score" and what else the task gives.

        Example:

        >>> task.ask([{"question": "Who wrote it?", "context": "Ada wrote it."}])[0]["answer"]
        'Ada'
        """
        import tensorflow as tf

        way = self.signatures[signature]
        if function is None:
            function = self.trace(way.method, way.inputs)
        specs = function.structured_input_signature[1]
        records = list(records)
        answers = []
        for first in range(0, len(records), batch_size):
            batch = records[first : first + batch_size]
            inputs = {}
            for name, spec in specs.items():
                values = [record[name] for record in batch]
                inputs[name] = tf.constant(list(map(encode, values)) if spec.dtype == tf.string else values, spec.dtype)
            columns = {name: values.numpy() for name, values in function(**inputs).items()}
            for i in range(len(batch)):
                answer = {name: plain(values[i]) for name, values in columns.items()}
                answers.append(way.without_padding(answer))
        return answers

    def shown(self, answer: dict[str, Any]) -> dict[str, Any]:
        """One of `ask`'s answers in the form in which people read it."""
        return answer

    def ask_one(
        self, strings: dict[str, str], signature: str = "serving_default", settings: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """The answer to one request.

        Args:
            strings: the request.
            signature: a name in `signatures`.
            settings: some of the signature's settings, as values or as text; the others keep their defaults.

        Raises:
            UserError: a string is missing or has no use here, no such signature or setting, or not a value of its type.

        Example:

        >>> task.ask_one({"question": "What is an LSTM?"}, "sample", {"seed": 3, "temperature": 0.7})["answer"]
        'a recurrent network'
        """
        if set(strings) != set(self.inputs):
            raise UserError(
                f"A {self.kind} model is asked with {' and '.join(self.inputs)}. "
                f"Received: {', '.join(strings) or 'nothing'}."
            )
        if signature not in self.signatures:
            raise UserError(
                f"A signature of this model is one of {', '.join(self.signatures)}. Received: {signature!r}."
            )
        way = self.signatures[signature]
        request = way.example(strings) | way.settings_of(settings or {})
        return self.ask([request], signature=signature)[0]


class Task(Answering):
    """What is trained here: strings in, strings out.

    Subclasses give what is named below; `answer` is the one path that `ask`, `evaluate` and the export share.

    Args:
        config: every setting of the run.
        tokenizer: turns text into ids; None for training from prepared arrays on a machine without TensorFlow.
        vocabulary_size: needed only without a tokenizer.
        precision: Keras dtype policy of the model; default: the one in `config.training`.

    Attributes:
        inputs: names of the string inputs of `answer`.
        monitor: the metric of `evaluate` that decides which weights are best.
        monitor_mode: "max" where more of it is better, else "min".
        token_features: the prepared features that are counted as tokens.
        predicts: the output of `answer` that is kept as a prediction.
        settings: small values found while training that belong to the weights, e.g. a threshold.
        metric_notes: what repeating the metrics of the last `evaluate` takes, by metric: e.g. sacreBLEU's signature.
    """

    monitor: str
    monitor_mode = "max"
    token_features: tuple[str, ...]
    predicts = "answer"

    def __init__(
        self, config: Config, tokenizer=None, vocabulary_size: int | None = None, precision: str | None = None
    ):
        import keras

        self.config = config
        size = int(tokenizer.vocabulary_size if tokenizer is not None else vocabulary_size)
        policy = keras.dtype_policies.get(precision or config.training.precision)
        self.unknown_id = getattr(tokenizer, "unknown_id", 1)  # models that hide tokens are made with it
        super().__init__(config.kind, tokenizer, self.make_model(size, policy))
        self.metric_notes: dict[str, str] = {}
        self.model(self.example_inputs())

    def make_model(self, vocabulary_size: int, dtype):
        """A freshly initialised model for a tokenizer's V ids."""
        from keras_llm.models import MODELS

        return MODELS[self.config.kind, self.config.model](vocabulary_size, self.config.network, dtype=dtype)

    @property
    def padding(self) -> dict[str, int]:
        """What fills up the rows of prepared features, where that is not 0."""
        return dict.fromkeys(self.token_features, self.config.network.pad_id)

    # What a subclass gives

    @staticmethod
    def read_files(paths, config: Config) -> tuple[list[dict], Any]:
        """Files -> records, and a report of what could not be used, with `lines()`, `skipped` and `mended`."""
        raise NotImplementedError

    @classmethod
    def read_more(cls, paths, config: Config) -> tuple[list[dict], Any]:
        """`read_files` with a config that was fitted to other files, to which these must fit, too."""
        return cls.read_files(paths, config)

    def read(self, paths, fields: FieldConfig | None = None) -> tuple[list[dict], Any]:
        """`read_more` with the task's own config, over whose fields others may be laid.

        Raises:
            UserError: a field is given that such files have no use for; see also the readers.
        """
        fields = fields or FieldConfig()
        obeyed = [name for name, kinds in OBEYED["fields"].items() if self.config.kind in kinds]
        useless = [name for name, value in vars(fields).items() if value and name not in obeyed]
        if useless:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in useless)
            known = ", ".join(f"--{name.replace('_', '-')}" for name in obeyed) or "no fields"
            raise UserError(f"The files of a {self.kind} run are read with {known}. Received: {flags}. Leave it out.")
        return self.read_more(paths, dataclasses.replace(self.config, fields=fields.over(self.config.fields)))

    @staticmethod
    def fitted(config: Config, records: list[dict]) -> Config:
        """The config with what the training records decide, e.g. the names of labels."""
        return config

    @staticmethod
    def texts(records: Iterable[dict]) -> Iterable[str]:
        """The texts of records that a tokenizer is trained on."""
        raise NotImplementedError

    def bundled(self) -> list[dict]:
        """Records from our own small data, to ask where the user names no file."""
        raise NotImplementedError

    def requests(self, records: list[dict]) -> list[dict]:
        """Records -> what `answer` is asked with to show or to compare answers."""
        return records

    def answers_table(self, records: list[dict]) -> tuple[list[str], list[list[str]]]:
        """What is shown of the answers to a few records while training: columns and rows."""
        raise NotImplementedError

    def predictions(self, records: list[dict]) -> dict[str, Any]:
        """id -> what `evaluate` judges, for records with ids: what `evaluate.py --predictions` writes."""
        answers = self.ask(self.requests(records))
        return {r["id"]: self.shown(answer)[self.predicts] for r, answer in zip(records, answers, strict=True)}

    def drawn_inputs(self, records: list[dict]) -> dict[str, np.ndarray]:
        """The model's inputs for a picture of its attention to the first record."""
        row = next(iter(self.prepare(records[:1])))
        return self.split({name: value[None] for name, value in row.items()})[0]

    def token_names(self) -> list[str]:
        """The model's ids as printable pieces: for tables and the embedding projector."""
        return self.tokenizer.tokens()

    def example_inputs(self) -> dict[str, np.ndarray]:
        """Smallest valid input of the model, to build its weights."""
        raise NotImplementedError

    def prepare(self, records: Iterable[dict]) -> Iterator[dict[str, np.ndarray]]:
        """Rows of ids for training, from records; tokenizes with the traced graph."""
        raise NotImplementedError

    def batches(self, prepared, multiple: int):
        """The source of training batches (`keras_llm.data.batches.Steps`), padded to multiples of a number of tokens."""
        raise NotImplementedError

    def split(self, batch: dict[str, np.ndarray]) -> tuple[dict, Any, Any]:
        """A padded batch of prepared rows -> (x, y, sample_weight) for the model and the loss: arrays, or, for a model with
        several outputs, dicts of them."""
        raise NotImplementedError

    def evaluate(self, records: list[dict], tune: bool = False) -> dict[str, float]:
        """The task's own metrics over records; `tune` is given while training: it may set `settings` (thresholds) from them,
        and take a faster way."""
        raise NotImplementedError

    def judged(self, records: list[dict]):
        """Of a task that chooses labels: what is drawn of its judgement, as `Classification` has it; None: nothing is."""
        return None

    def loss(self):
        """The training loss, or a dict with one for each of the model's outputs; their sum is minimised."""
        from keras_llm.layers.losses import CrossEntropy

        return CrossEntropy(self.config.training.label_smoothing)


def encode(text: str) -> bytes:
    """UTF-8 bytes; a lone surrogate (possible in JSON) becomes U+FFFD, as invalid bytes do in the graph."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode("utf-8")


def plain(value):
    """A NumPy value or bytes -> str, float or int, or lists of them."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray):
        return [plain(part) for part in value]
    return value.item()
