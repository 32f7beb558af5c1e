"""Train a model on your own text: to write on (n-gram, feed-forward, LSTM or Transformer), or to fill gaps in it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import _path  # noqa: F401
import tyro

from keras_llm.command_line import config_of, named, parse, recommended, run_script, seconds, with_settings
from keras_llm.config import (
    CorpusConfig,
    LengthConfig,
    MaskingConfig,
    ModelConfig,
    TokenizerConfig,
    TrainingConfig,
)
from keras_llm.errors import UserError
from keras_llm.validation import validate

# objective -> kind of model, and what it says about masking
OBJECTIVES = {
    "causal": ("causal_lm", {}),
    "mlm": ("masked_lm", {"next_sentence": False}),
    "mlm+nsp": ("masked_lm", {"next_sentence": True}),
    "span-corruption": ("span_corruption", {}),
}


@dataclasses.dataclass
class Masking(MaskingConfig):
    next_sentence: tyro.conf.Suppress[bool] = True  # the objective says it


@dataclasses.dataclass
class Arguments:
    data: tuple[Path, ...]
    """The corpus: text files, JSON lines, directories of them; also gzipped."""
    run: Path
    """Directory of the run; must not exist, unless --resume is given."""
    model: Literal["ngram", "feedforward", "lstm", "lstm_attention", "transformer"]
    """The kind of model. mlm and mlm+nsp: transformer; span-corruption: lstm or transformer, as encoder and decoder."""
    preset: str
    """Name of the recommended values, over which the flags below are laid."""
    corpus: CorpusConfig
    text: TokenizerConfig
    network: ModelConfig
    lengths: LengthConfig
    masking: Masking
    training: TrainingConfig
    objective: Literal["causal", "mlm", "mlm+nsp", "span-corruption"] = "causal"
    """What is learned: the next token; hidden words; these and whether one text follows another (BERT); hidden spans (T5)."""
    eval_data: tuple[Path, ...] = ()
    """Documents to evaluate on while training; --eval-share keeps some of the corpus for it. Without either the training loss
    decides which weights are best."""
    config: Path | None = None
    """JSON file with settings; flags given here have priority over it, it has priority over the preset."""
    resume: bool = False
    """Continue the run where it stopped, at the exact step with the exact next batch."""
    time_budget: str | None = None
    """Stop after this time as if at the end: 90m, 1h30m, 600 (seconds)."""
    save_every: str = "2m"
    """Save the state for --resume at least this often; it is also saved at each evaluation and when stopped."""


def main():
    given = list(sys.argv[1:])
    kind, masking = OBJECTIVES.get(named(given, "objective"), ("", {}))  # what is none is told when parsing
    base = recommended([*given, *([f"--kind={kind}"] if kind else [])], kind="causal_lm", model="transformer")
    base.masking = Masking(**vars(base.masking) | masking)
    defaults = with_settings(Arguments, base)
    defaults.objective = objective_of(base)
    arguments = parse(Arguments, __doc__, defaults)
    config = config_of(arguments, base.kind)
    config.masking = MaskingConfig(**vars(arguments.masking))
    config = validate(config)
    budget = seconds(arguments.time_budget) if arguments.time_budget else None
    from keras_llm.training.pretrain import pretrain_run

    return pretrain_run(
        config,
        arguments.run,
        arguments.data,
        arguments.eval_data,
        resume=arguments.resume,
        time_budget=budget,
        save_seconds=seconds(arguments.save_every),
    )


def objective_of(config) -> str:
    """The objective that a file of settings says."""
    for name, (kind, masking) in OBJECTIVES.items():
        if kind == config.kind and masking.items() <= vars(config.masking).items():
            return name
    raise UserError(f"Models of kind {config.kind} are not pretrained. Received: --config. Use train_qa.py.")


if __name__ == "__main__":
    run_script(main)
