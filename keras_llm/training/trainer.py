"""The training loop: from prepared arrays to weights, exactly resumable at any step."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from keras_llm import files
from keras_llm.errors import UserError
from keras_llm.training.fine_tuning import prepare_model, rates
from keras_llm.training.optimizers import AdamW, WarmUpSchedule

SAVE_SECONDS = 120.0
LOG_EVERY_STEPS = 20
# Batches are padded to a multiple of this. JAX compiles each shape anew, so it gets few of them.
PAD_MULTIPLE = {"tensorflow": 8, "jax": 64}


@dataclass
class Progress:
    """Where a training stands; saved with the weights in one file."""

    step: int = 0
    """Batches trained on; with `accumulate`, so many of them make an update."""
    evaluated_step: int = 0
    """Step of the last evaluation."""
    best: float = -math.inf
    """Best value of the monitored metric; negated where less of it is better."""
    best_step: int = 0
    """Step at which it was reached."""
    waited: int = 0
    """Evaluations since then."""
    tokens: int = 0
    """Tokens trained on, padding not among them."""
    seconds: float = 0.0
    """Training time so far, over all sittings, evaluations included."""
    stopped: str = ""
    """Why training ended: "", "finished", "early" or "time"."""
    losses: list[float] = field(default_factory=list)
    """Of the last batches, at most `LOG_EVERY_STEPS`."""
    history: list[dict] = field(default_factory=list)
    """The learning curve: step, seconds, training loss over the last steps and metrics of each evaluation."""

    @property
    def loss(self) -> float:
        """Mean training loss over the last steps: a single batch's says little about the weights."""
        return math.fsum(self.losses) / len(self.losses)


class Trainer:
    """Trains a task's model on prepared arrays.

    Batches are a pure function of (seed, step), random generators are part of the state, and the state is replaced as one
    file: after any stop, `train` goes on with the exact next batch.

    Args:
        task: the task whose model is trained; its config gives every setting.
        prepared: training rows (`keras_llm.data.Prepared`).
        state_path: the state file; training continues from it if it exists.
        evaluate: called as `evaluate()` with the weights to judge in the model; returns metrics, among them
            `task.monitor`. None: the best weights are those of the smallest training loss over the last steps.
        keep: called as `keep(is_best)` after each evaluation with those weights in the model.
        time_budget: seconds after which training stops as if it were at its end; None: no limit.
        save_seconds: the state is saved at least this often (and at each evaluation).

    Attributes:
        progress: where training stands, read from the state file if there is one.
        observers: objects with any of `on_log(step, values)`, `on_evaluation(step, metrics)`; append yours.

    Raises:
        UserError: the loss is not finite (with step and learning rate), or the state belongs to another model.

    Example:

    >>> trainer = Trainer(task, prepared, run.state)
    >>> trainer.train().stopped
    'finished'
    """

    def __init__(
        self,
        task,
        prepared,
        state_path: str | Path,
        evaluate: Callable[[], dict] | None = None,
        keep: Callable[[bool], None] = lambda is_best: None,
        time_budget: float | None = None,
        save_seconds: float = SAVE_SECONDS,
    ):
        self.task, self.evaluate, self.keep = task, evaluate, keep
        self.observers: list = []
        self.state_path, self.time_budget, self.save_seconds = Path(state_path), time_budget, save_seconds
        self.settings = settings = task.config.training
        self.batches = task.batches(prepared, PAD_MULTIPLE[keras.config.backend()])
        steps = settings.steps or settings.epochs * self.batches.steps_per_epoch
        # Whole updates: what accumulates at the end would else be lost.
        self.total_steps = math.ceil(steps / settings.accumulate) * settings.accumulate
        self.evaluate_steps = settings.evaluate_steps or settings.evaluate_every * self.batches.steps_per_epoch
        # Inside, more is better.
        self.sign = 1 if task.monitor_mode == "max" else -1
        self.model = task.model
        prepare_model(self.model, task.config)
        self.model.compile(
            optimizer=self._optimizer(),
            loss=task.loss(),
            # XLA is what makes JAX fast; on TensorFlow it is slower for these graphs on CPUs and would need fixed shapes.
            jit_compile=keras.config.backend() == "jax",
        )
        self.model.optimizer.build(self.model.trainable_variables)
        self._average = None
        if settings.ema:
            self._average = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
            self._average.set_model(self.model)
            self._average.set_params({"epochs": 0})  # only asks whether an epoch is the last, to leave the average in
        self.progress = Progress()
        if self.state_path.exists():
            self._restore()
        self._stop_signal = 0

    def _optimizer(self):
        settings = self.settings
        optimizer = AdamW(
            learning_rate=WarmUpSchedule(
                settings.learning_rate, self.total_steps, round(settings.warmup * self.total_steps), settings.schedule
            ),
            rates=rates(self.model, settings, self.task.config.network),
            gradient_accumulation_steps=settings.accumulate if settings.accumulate > 1 else None,
            clip_norm=settings.clip_norm,
            weight_decay=settings.weight_decay,
            beta_2=settings.beta_2,
            use_ema=settings.ema > 0,
            ema_momentum=settings.ema or 0.99,
        )
        if settings.precision == "mixed_float16":
            return keras.optimizers.LossScaleOptimizer(optimizer)
        return optimizer

    @property
    def inner_optimizer(self) -> AdamW:
        """The AdamW, without the loss scaling around it."""
        return getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)

    # The loop

    def train(self) -> Progress:
        """Runs to the end, the time budget, an early stop, SIGINT or SIGTERM, saving the state on the way."""
        progress, per_epoch = self.progress, self.batches.steps_per_epoch
        if progress.stopped == "time":
            progress.stopped = "" if progress.step < self.total_steps else "finished"  # resumed
        self._started = time.perf_counter() - progress.seconds
        self._sitting = time.perf_counter()
        saved = time.perf_counter()
        with self._signals(), self._bar() as bar:
            window = _Window()
            for step, batch in self.batches.prefetch(progress.step, self.total_steps):
                if progress.stopped:
                    break
                x, y, weight = self.task.split(batch)
                logs = self.model.train_on_batch(x, y, weight, return_dict=True)
                loss = float(logs["loss"])
                progress.step = step + 1
                progress.tokens += window.add(batch, self.task.padding)
                if not math.isfinite(loss):
                    raise UserError(
                        f"Training needs a finite loss. Received: loss={loss} at step {progress.step} with "
                        f"learning rate {self.learning_rate():.3g}. The last good state is kept; train anew with a "
                        "smaller --learning-rate, or with --precision float32 or mixed_bfloat16."
                    )
                progress.losses = [*progress.losses, loss][-LOG_EVERY_STEPS:]
                end_of_epoch = progress.step % per_epoch == 0
                if window.steps >= LOG_EVERY_STEPS or end_of_epoch:
                    self._log(window, bar)
                    window = _Window()
                bar.update(1)
                last = progress.step == self.total_steps
                if self._out_of_time():
                    progress.stopped = "time"
                elif last:
                    progress.stopped = "finished"
                if progress.stopped or progress.step % self.evaluate_steps == 0:
                    self._evaluate()
                    self._save()
                    saved = time.perf_counter()
                elif self._stop_signal or time.perf_counter() - saved >= self.save_seconds:
                    self._save()
                    saved = time.perf_counter()
                if self._stop_signal:
                    name = signal.Signals(self._stop_signal).name
                    bar.write(f"Stopped by {name} after step {progress.step}; --resume continues there.")
                    break
        return progress

    @property
    def stop_signal(self) -> int:
        """Number of the signal that stopped the training, or 0."""
        return self._stop_signal

    def learning_rate(self) -> float:
        """Of the last update made. Schedules count batches, as steps do."""
        updated = self.progress.step - self.progress.step % self.settings.accumulate
        return float(self.inner_optimizer._learning_rate(max(updated - 1, 0)))

    def _evaluate(self):
        progress = self.progress
        with self._averaged():
            metrics = self.evaluate() if self.evaluate else {}
            value = self.sign * float(metrics[self.task.monitor]) if metrics else -progress.loss
            is_best = value > progress.best or not progress.best_step
            if is_best:
                progress.best, progress.best_step, progress.waited = value, progress.step, 0
            elif progress.step % self.evaluate_steps == 0:  # and not only because time is up
                progress.waited += 1
            progress.evaluated_step = progress.step
            progress.seconds = time.perf_counter() - self._started
            now = {"step": progress.step, "seconds": round(progress.seconds, 1), "loss": progress.loss}
            progress.history.append({**now, **metrics})
            self.keep(is_best)
            for observer in self._having("on_evaluation"):
                observer.on_evaluation(progress.step, {**metrics, "best": self.sign * progress.best})
        if self.settings.patience and progress.waited >= self.settings.patience and not progress.stopped:
            progress.stopped = "early"

    @contextmanager
    def _averaged(self):
        """The moving average of the weights stands in for the weights inside."""
        if self._average:
            self._average.on_epoch_end(0)
        try:
            yield
        finally:
            if self._average:
                self._average.on_epoch_begin(0)

    def _log(self, window, bar):
        values = {
            "loss": self.progress.loss,
            "learning_rate": self.learning_rate(),
            "gradient_norm": float(self.inner_optimizer.gradient_norm.value),
            "tokens_per_second": window.tokens_per_second(),
            "padding_share": window.padding_share(),
        }
        if hasattr(self.model.optimizer, "dynamic_scale"):
            values["loss_scale"] = float(self.model.optimizer.dynamic_scale.value)
        self.progress.seconds = time.perf_counter() - self._started
        for observer in self._having("on_log"):
            observer.on_log(self.progress.step, values)
        bar.set_postfix_str(
            f"loss {values['loss']:.3f}, rate {values['learning_rate']:.1e}, {values['tokens_per_second']:,.0f} tokens/s",
            refresh=False,
        )

    def _having(self, name):
        return [observer for observer in self.observers if hasattr(observer, name)]

    def _out_of_time(self):
        return self.time_budget is not None and time.perf_counter() - self._sitting > self.time_budget

    def _bar(self):
        # A log file gets a line now and then instead of a bar that redraws itself.
        interval = 0.5 if sys.stderr.isatty() else 30
        return tqdm(
            total=self.total_steps, initial=self.progress.step, desc="training", unit="step", mininterval=interval
        )

    @contextmanager
    def _signals(self):
        """SIGINT and SIGTERM let the current step end and the state be saved; a second one stops at once."""

        def note(number, frame):
            if self._stop_signal:
                raise KeyboardInterrupt
            self._stop_signal = number

        try:
            before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread, where handlers cannot be set
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # The state

    def _variables(self):
        # `variables` has the random generators' states too, which `weights` has not.
        return [*self.model.variables, *self.model.optimizer.variables]

    def _save(self):
        self.progress.seconds = time.perf_counter() - self._started
        arrays = {f"{i:05d}": keras.ops.convert_to_numpy(v.value) for i, v in enumerate(self._variables())}
        facts = {**asdict(self.progress), "settings": self.task.settings}
        with files.replacing(self.state_path) as temporary, open(temporary, "wb") as file:
            np.savez(file, facts=np.array(json.dumps(facts)), **arrays)

    def _restore(self):
        variables = self._variables()
        try:
            with np.load(self.state_path, allow_pickle=False) as stored:
                facts = json.loads(str(stored["facts"]))
                arrays = [stored[f"{i:05d}"] for i in range(len(stored.files) - 1)]
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.state_path} is damaged ({error}). Train anew under another name.") from error
        if [a.shape for a in arrays] != [tuple(v.shape) for v in variables]:
            raise UserError(f"{self.state_path} belongs to another model or optimizer. Train anew under another name.")
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        self.task.settings = facts.pop("settings")
        facts.pop("last_loss", None)  # of states from before `losses`
        self.progress = Progress(**facts)


class _Window:
    """Counts over the steps since the last log."""

    def __init__(self):
        self.steps, self.tokens, self.places, self.start = 0, 0, 0, time.perf_counter()

    def add(self, batch, padding):
        """Counts a batch by the features that `padding` names; returns its tokens."""
        tokens = sum(int(np.count_nonzero(batch[name] != pad_id)) for name, pad_id in padding.items())
        self.steps += 1
        self.tokens += tokens
        self.places += sum(batch[name].size for name in padding)
        return tokens

    def tokens_per_second(self):
        return self.tokens / max(time.perf_counter() - self.start, 1e-9)

    def padding_share(self):
        return 1 - self.tokens / max(self.places, 1)
