"""What the families of language models share."""

from __future__ import annotations

from typing import Any

from keras_llm.config import Config, LengthConfig, ModelConfig, TokenizerConfig
from keras_llm.errors import UserError


def causal_lm(network: ModelConfig, vocabulary_size: int, prompt_start: bool, tokenizer: str = "byte_pair") -> Config:
    """The config of an imported language model; what a checkpoint says nothing about has its default."""
    text = TokenizerConfig(tokenizer, vocabulary_size, prompt_start=prompt_start)
    # Learned positions end with the context: prompt and answer share it.
    longest = max(min(LengthConfig().max_answer_length, network.context_length // 2), 1)
    lengths = LengthConfig(max_answer_length=longest)
    return Config(kind="causal_lm", model="transformer", text=text, network=network, lengths=lengths)


def refuse_misfit(config: Config, family: str, **fits: tuple) -> None:
    """Refuses a run with another value of a network's field than a family has."""
    odd = [
        f"{name}={getattr(config.network, name)}"
        for name, values in fits.items()
        if getattr(config.network, name) not in values
    ]
    if odd:
        wanted = ", ".join(f"{name}={' or '.join(map(str, dict.fromkeys(values)))}" for name, values in fits.items())
        raise UserError(
            f"A model of {family}'s form has {wanted}. Received: {', '.join(odd)}. Such a run has no Hugging Face form."
        )


def ids_of(tokenizer) -> dict[str, Any]:
    """What config.json and generation_config.json say about special ids."""
    ends = list(tokenizer.end_ids)
    return {
        "bos_token_id": tokenizer.start_id,
        "eos_token_id": ends if len(ends) > 1 else ends[0],
        "pad_token_id": tokenizer.pad_id,
    }
