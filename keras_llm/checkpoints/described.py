"""A checkpoint's config.json, read strictly: nothing in it that changes what the model computes is passed over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_llm.errors import UserError

REQUIRED = object()
# What never changes the numbers: origin, training, what is returned, and what tokenizer and generation read by themselves.
INERT = {
    *("architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path", "name_or_path", "model_type"),
    *("use_cache", "gradient_checkpointing", "initializer_range", "initializer_factor", "torchscript", "use_bfloat16"),
    *("output_hidden_states", "output_attentions", "return_dict", "_attn_implementation", "attn_implementation"),
    *("id2label", "label2id", "num_labels", "_num_labels", "problem_type", "finetuning_task", "task_specific_params"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "tokenizer_class"),
    *("chunk_size_feed_forward", "_commit_hash", "model_max_length", "unsloth_version", "output_past"),
}


class Described:
    """The values of a config.json; each is asked for once, and what nobody asked for is refused.

    Args:
        values: its content.
        path: its name, for messages.

    Example:

    >>> described = Described({"n_embd": 8, "use_cache": True, "n_head": 2}, Path("config.json"))
    >>> described.take("n_embd", int), described.take("n_inner", int, None)
    (8, None)
    >>> described.finish()
    Traceback (most recent call last):
    keras_llm.errors.UserError: config.json: n_head = 2 is not known ...
    """

    def __init__(self, values: Mapping[str, Any], path: Path):
        self.values, self.path = values, path
        self._asked = set(INERT)

    def take(self, name: str, kind: type, default: Any = REQUIRED) -> Any:
        """A value of a type (int is a float, too); the default where it is absent or null."""
        self._asked.add(name)
        value = self.values.get(name)
        if value is None:
            if default is REQUIRED:
                raise UserError(f"{self.path} must have {name}. Received: none. Fetch the checkpoint again.")
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise UserError(f"{self.path}: {name} must be of type {kind.__name__}. Received: {value!r}.")
        return value

    def choose(self, name: str, choices: Mapping[str, Any], default: str) -> Any:
        """What one of several texts stands for."""
        value = self.take(name, str, default)
        if value not in choices:
            raise UserError(
                f"{self.path}: {name} is supported as {', '.join(choices)}. Received: {value!r}. "
                "Choose another checkpoint."
            )
        return choices[value]

    def must(self, name: str, *values: Any) -> None:
        """Refuses a value that changes the computation; absent is allowed, and null."""
        self._asked.add(name)
        value = self.values.get(name)
        if value is not None and value not in values:
            wanted = " or ".join(map(repr, values))
            raise UserError(
                f"{self.path}: {name} is supported as {wanted} only. Received: {value!r}. Choose another checkpoint."
            )

    def ignore(self, *names: str) -> None:
        """Names of values that do not change what the model computes."""
        self._asked.update(names)

    def finish(self) -> None:
        """Refuses what nobody asked for, unless it is switched off (null, false, empty)."""
        for name, value in self.values.items():
            if name not in self._asked and value not in (None, False, "", [], {}):
                raise UserError(
                    f"{self.path}: {name} = {value!r} is not known for this family, and may change what the model "
                    "computes. Choose another checkpoint, or remove it if it does not."
                )
