"""Train a language model on your own text: n-gram, feed-forward, LSTM or Transformer."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import _path  # noqa: F401

from keras_llm.command_line import config_of, parse, recommended, run_script, seconds, with_settings
from keras_llm.config import CorpusConfig, LengthConfig, ModelConfig, TokenizerConfig, TrainingConfig, validate

KIND = "causal_lm"


@dataclasses.dataclass
class Arguments:
    data: tuple[Path, ...]
    """The corpus: text files, JSON lines, directories of them; also gzipped."""
    run: Path
    """Directory of the run; must not exist, unless --resume is given."""
    model: Literal["ngram", "feedforward", "lstm", "lstm_attention", "transformer"]
    """The kind of model."""
    preset: str
    """Name of the recommended values, over which the flags below are laid."""
    corpus: CorpusConfig
    text: TokenizerConfig
    network: ModelConfig
    lengths: LengthConfig
    training: TrainingConfig
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
    base = recommended(sys.argv[1:], kind=KIND, model="transformer")
    arguments = parse(Arguments, __doc__, with_settings(Arguments, base))
    config = validate(config_of(arguments, KIND))
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
