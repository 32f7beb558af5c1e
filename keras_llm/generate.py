"""Writing on: what a run's language model makes of prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_llm.config import EmbeddingConfig, FieldConfig, LabelConfig, MaskingConfig, TrainingConfig
from keras_llm.errors import UserError
from keras_llm.generation.bounds import check_setting
from keras_llm.run import load
from keras_llm.validation import validate


def load_writer(run_dir: str | Path, max_tokens: int | None = None, beams: int | None = None, weights: str = "best"):
    """A run's task, made to write texts of another length or with another number of beams.

    Args:
        run_dir: a run whose model writes.
        max_tokens: longest text in tokens; None: as the run was trained, `max_answer_length`.
        beams: of `beam`; None: as exports have.
        weights: "best" or "last".

    Raises:
        UserError: the model does not write, or cannot write so much.
    """
    task = load(run_dir, weights)
    if "sample" not in task.signatures:
        raise UserError(f"Text is written by language models and by encoder-decoders. Received: a {task.kind} run.")
    if max_tokens is not None:
        task.config.lengths.max_answer_length = max_tokens
        # How it was trained does not matter any more, and an older run may have settings that are refused now.
        lengths = dataclasses.replace(task.config.lengths, max_text_length=0)
        others = {
            "fields": FieldConfig(),
            "labels": LabelConfig(),
            "masking": MaskingConfig(),
            "embedding": EmbeddingConfig(),
            "training": TrainingConfig(),
        }
        validate(dataclasses.replace(task.config, lengths=lengths, **others))
    if beams is not None:
        check_setting("num_beams", beams)
        task.num_beams = beams
    return task


def generate(
    task, prompts: Sequence[str], settings: dict[str, Any] | None = None, stop: Sequence[str] = (), samples: int = 1
) -> Iterator[dict]:
    """Texts that follow prompts.

    Args:
        task: from `load_writer`, with one input.
        prompts: any number; they go through the model together.
        settings: of `sample`; with `length_penalty` those of `beam`. A prompt's first text is drawn with `seed`, its second with
            the number after it.
        stop: texts at which a text ends, themselves left out.
        samples: texts for each prompt.

    Yields:
        {"prompt", "text", "score", "seed"}, a prompt's texts one after the other; `score` is the geometric mean of the
        probabilities of the tokens.

    Raises:
        UserError: no samples, an empty stop string, or settings that the signature has not.

    Example:

    >>> next(generate(load_writer("runs/gpt"), ["床前明月"], {"temperature": 0.7}))["text"]
    '光'
    """
    from keras_llm.generation.stream import first_stop, stop_strings

    if samples < 1:
        raise UserError(f"The number of samples must be at least 1. Received: {samples}.")
    stop = stop_strings(stop)
    settings = dict(settings or {})
    name = "beam" if "length_penalty" in settings else "sample"
    way = task.signatures[name]
    (text_input,) = way.texts
    chosen = way.settings_of(settings)
    if name == "sample":  # the last seed must be one, too
        way.settings_of({"seed": chosen.get("seed", way.settings["seed"][0]) + samples - 1})
    asked = []
    for prompt in prompts:
        for i in range(samples):
            request = way.example({text_input: prompt}) | chosen
            asked.append(request | ({"seed": request["seed"] + i} if name == "sample" else {}))
    for request, found in zip(asked, task.ask(asked, signature=name), strict=True):
        text = found["answer"]
        yield {
            "prompt": request[text_input],
            "text": text[: first_stop(text, stop)],
            "score": found["score"],
            **({"seed": request["seed"]} if name == "sample" else {}),
        }
