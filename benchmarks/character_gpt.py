"""A character GPT (4 layers x 128, context 64, batch 12, 2,000 steps): pretrain.py beside a plain PyTorch loop of the same shape.

python benchmarks/character_gpt.py --data input.txt --output docs/results/character_gpt.json

The last tenth of the text is held out. Both train without dropout, with AdamW, 100 steps of warm-up and a cosine; one after the
other, float32, on all cores. Seconds are the whole training loop's, ours with reading batches, logging and the saved state.
Losses are nats a character over the held-out text cut into windows of 64 that share nothing, as published figures are.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.interleaved import environment, write  # noqa: E402
from keras_llm.command_line import parse, read_text, run_script  # noqa: E402

LAYERS, WIDTH, HEADS, CONTEXT, BATCH, WARMUP = 4, 128, 4, 64, 12, 100
RATE, LAST_RATE = 1e-3, 1e-4


@dataclasses.dataclass
class Arguments:
    data: Path
    """The text."""
    steps: int = 2000
    """Updates."""
    output: Path | None = None
    """JSON file."""


def main():
    arguments = parse(Arguments, __doc__)
    text = read_text(arguments.data, "--data")
    held_out = text[int(len(text) * 0.9) :]
    result = {
        "environment": environment(),
        "steps": arguments.steps,
        "data": arguments.data.name,
        "characters": len(text),
    }
    with tempfile.TemporaryDirectory() as directory:
        train = Path(directory) / "train.txt"
        train.write_text(text[: -len(held_out)], encoding="utf-8")
        result["keras_llm"] = ours(train, held_out, Path(directory) / "run", arguments.steps)
    print("keras_llm", result["keras_llm"], flush=True)
    result["torch"] = torch_loop(text[: -len(held_out)], held_out, arguments.steps)
    print("torch    ", result["torch"], flush=True)
    result["ratio"] = result["torch"]["seconds"] / result["keras_llm"]["seconds"]
    print(f"PyTorch's time / ours: {result['ratio']:.2f}")
    write(arguments.output, result)


def ours(train, held_out, run, steps):
    flags = (
        f"--model transformer --preset tiny --tokenizer characters --document file --max-characters 10000000 --steps {steps} "
        f"--batch-size {BATCH} --context-length {CONTEXT} --embedding-dim {WIDTH} --num-layers {LAYERS} --num-heads {HEADS} "
        f"--feedforward-dim {4 * WIDTH} --dropout 0 --learning-rate {RATE} --warmup {WARMUP / steps} --evaluate-steps {steps}"
    )
    script = ROOT / "scripts" / "pretrain.py"
    command = [sys.executable, str(script), *flags.split(), "--data", str(train), "--run", str(run)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    import keras_llm
    from keras_llm.models.scoring import token_log_probs

    task = keras_llm.load(run)
    ids = task.tokenizer.encode([held_out])[0].numpy()
    losses = []
    for x, y in windows(ids):
        losses.append(-np.asarray(token_log_probs(task.model({"token_ids": x}), y)))
    metrics = json.loads((run / "metrics.json").read_text())
    shared = task.evaluate([{"text": held_out}])["loss"]
    return {
        "seconds": round(metrics["training_seconds"], 1),
        "loss": float(np.concatenate(losses).mean()),
        "loss_in_windows_that_share_half": shared,
        "weights": task.model.count_params(),
        "flags": flags,
    }


def windows(ids, rows=256):
    """Batches of windows and their labels; what is left at the end is not scored."""
    count = (len(ids) - 1) // CONTEXT
    x = ids[: count * CONTEXT].reshape(count, CONTEXT).astype("int32")
    y = ids[1 : count * CONTEXT + 1].reshape(count, CONTEXT).astype("int32")
    for first in range(0, count, rows):
        yield x[first : first + rows], y[first : first + rows]


def torch_loop(train, held_out, steps):
    import torch
    from torch import nn

    torch.manual_seed(0)
    vocabulary = sorted(set(train + held_out))
    number = {character: i for i, character in enumerate(vocabulary)}
    train, held_out = (np.array([number[character] for character in text]) for text in (train, held_out))

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.output = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            b, t, _ = x.shape
            q, k, v = self.qkv(x).view(b, t, 3 * HEADS, -1).transpose(1, 2).chunk(3, dim=1)
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.output(y.transpose(1, 2).reshape(b, t, WIDTH))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.Sequential(nn.LayerNorm(WIDTH), Attention())
            layers = [nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)]
            self.feedforward = nn.Sequential(*layers)

        def forward(self, x):
            x = x + self.attention(x)
            return x + self.feedforward(x)

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(len(vocabulary), WIDTH), nn.Embedding(CONTEXT, WIDTH)
            for embedding in (self.tokens, self.positions):
                nn.init.normal_(embedding.weight, std=0.02)
            self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)], nn.LayerNorm(WIDTH))

        def forward(self, ids):
            x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
            return self.blocks(x) @ self.tokens.weight.T

    def loss_of(x, y):
        logits = model(torch.from_numpy(x).long())
        return nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(y).long().flatten())

    def rate(step):
        if step < WARMUP:
            return (step + 1) / WARMUP
        share = (step - WARMUP) / (steps - WARMUP)
        return (LAST_RATE + (RATE - LAST_RATE) * (1 + math.cos(math.pi * share)) / 2) / RATE

    model, random = GPT(), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    start = time.perf_counter()
    for _ in range(steps):
        places = random.integers(0, len(train) - CONTEXT - 1, BATCH)[:, None] + np.arange(CONTEXT + 1)
        rows = train[places]
        loss = loss_of(rows[:, :-1], rows[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        found = [(loss_of(x, y).item(), len(x)) for x, y in windows(held_out)]
    loss = sum(value * count for value, count in found) / sum(count for _, count in found)
    weights = sum(parameter.numel() for parameter in model.parameters())
    return {"seconds": round(seconds, 1), "loss": loss, "weights": weights}


if __name__ == "__main__":
    run_script(main)
