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
    validate,
)

# objective -> kind of model, and whether it also learns which text follows another
OBJECTIVES = {
    "causal": ("causal_lm", False),
    "mlm": ("masked_lm", False),
    "mlm+nsp": ("masked_lm", True),
    "span-corruption": ("span_corruption", False),
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
    objective: Literal["causal", "mlm", "mlm+nsp", "span-corruption"] | None = None
    """What is learned: the next token (the default); hidden words; these and whether one text follows another (BERT); hidden
    spans (T5)."""
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
    objective = named(given, "objective")
    if objective in OBJECTIVES:  # what is none is told when parsing
        given.append(f"--kind={OBJECTIVES[objective][0]}")
    base = recommended(given, kind="causal_lm", model="transformer")
    kind, masking = base.kind, vars(base.masking)
    if objective in OBJECTIVES:
        masking["next_sentence"] = OBJECTIVES[objective][1]
    base.masking = Masking(**masking)
    arguments = parse(Arguments, __doc__, with_settings(Arguments, base))
    config = config_of(arguments, kind)
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


if __name__ == "__main__":
    run_script(main)
