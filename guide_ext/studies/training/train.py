# SPDX-License-Identifier: MIT
"""Supervised fine-tuning with LoRA, which the paper compares with GUIDE (Fig. 2b).

GUIDE needs no training. On how many tokens must a model be trained until it follows the instruction
as often? :func:`train` writes an adapter after given numbers of tokens;
:func:`guide_ext.integration.lora.load_adapted` loads it for the evaluation.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from guide_ext import integration
from guide_ext.embedded import EMBEDDED, is_embedded
from guide_ext.integration import lora
from guide_ext.integration.decoding import seeded
from guide_ext.machine.facts import machine_facts
from guide_ext.studies.training.checkpoints import (
    Checkpoint,
    check_identity,
    read_checkpoint,
    write_checkpoint,
)
from guide_ext.studies.training.data import (
    Example,
    PackedRow,
    TokenizedExample,
    digest,
    encode_example,
    packed_batches,
)
from guide_ext.studies.training.settings import SftSettings, schedule
from guide_ext.support.version import VERSION

__all__ = ["Checkpoint", "Example", "SftSettings", "Step", "packed_loss", "planned_tokens", "train"]

_OPTIMIZER_FILE = "optimizer.pt"


@dataclass(frozen=True)
class Step:
    """One optimiser step, for a progress display.

    Attributes:
        index: Number of the step, from 1.
        steps: Number of steps of the training.
        tokens: Number of tokens trained on so far.
        loss: Loss of this step, in nats per answer token.
        learning_rate: Learning rate of this step.

    """

    index: int
    steps: int
    tokens: int
    loss: float
    learning_rate: float


def train(
    model_name: str,
    examples: Sequence[Example],
    settings: SftSettings,
    folder: Path,
    *,
    device: str | None = None,
    dtype: str = "auto",
    on_step: Callable[[Step], None] | None = None,
) -> Iterator[Checkpoint]:
    """Train an adapter, or continue its training, and write checkpoints.

    Checkpoints that are in the folder are not trained again; a damaged one is. A training that was
    killed continues from the last one. Its adapters are then, bit for bit, those of a training
    without interruption, on the CPU of one machine with the same versions and number of threads.

    Args:
        model_name: A local folder or a hub id; the model itself is not changed.
        examples: The examples to learn.
        settings: How to train.
        folder: Gets a folder ``tokens-<number>`` for each checkpoint.
        device: Device to train on, such as ``"cuda:0"``; None for a GPU if there is one.
        dtype: Dtype of the model's weights, as for :func:`guide_ext.integration.load`. The adapter
            has float32 weights.
        on_step: Called after every optimiser step.

    Returns:
        The checkpoints, ascending, each as soon as it is written. Training starts when the first
        one is asked for; a model is loaded only if something is left to train.

    Raises:
        ImportError: While iterating: peft is not installed.
        ValueError: At once: there are no examples, one is longer than ``sequence_length``, or the
            folder holds checkpoints of other settings, examples or another model. While iterating:
            an example has more tokens than the model knows positions, or the model lets packed
            samples see each other.
        FloatingPointError: While iterating: the loss is not finite. No later adapter is written.
        OSError: While iterating: the model cannot be found or read.

    Example:
        >>> train("some/model", [], SftSettings.paper(), Path("adapters"))
        Traceback (most recent call last):
        ...
        ValueError: examples must be at least one, got none

    """
    samples = _samples(model_name, examples, settings)
    identity = {
        "model": EMBEDDED if is_embedded(model_name) else model_name,
        "dtype": dtype,
        "settings": asdict(settings),
        "examples": digest(samples),
    }
    check_identity(folder, identity)
    run = _Run(model_name, samples, settings, device, dtype, on_step)
    return _checkpoints(run, folder, identity)


def planned_tokens(
    model_name: str, examples: Sequence[Example], settings: SftSettings
) -> list[int]:
    """Return the numbers of trained tokens after which `train` writes a checkpoint.

    This tokenises the examples and trains nothing.

    Args:
        model_name: A local folder or a hub id.
        examples: The examples to learn.
        settings: How to train.

    Raises:
        ValueError: If there are no examples, or one is longer than ``sequence_length``.

    Example:
        >>> from guide_ext.embedded import model_path
        >>> example = Example([{"role": "user", "content": "Summarize"}], "The cook sings.")
        >>> settings = SftSettings(epochs=2, checkpoints=(0,), sequence_length=64, batch_tokens=64)
        >>> planned_tokens(str(model_path()), [example], settings)
        [0, 20]

    """
    run = _Run(model_name, _samples(model_name, examples, settings), settings, None, "auto", None)
    return [run.tokens_after[steps] for steps in run.stops()]


def _samples(
    model_name: str, examples: Sequence[Example], settings: SftSettings
) -> list[TokenizedExample]:
    if not examples:
        raise ValueError("examples must be at least one, got none")
    tokenizer = integration.load_tokenizer(model_name)
    samples = [encode_example(tokenizer, example) for example in examples]
    longest = max(map(len, samples))
    if longest > settings.sequence_length:
        msg = (
            f"examples must have at most sequence_length={settings.sequence_length} tokens, got "
            f"one of {longest}; shorten it or raise sequence_length"
        )
        raise ValueError(msg)
    return samples


def _checkpoints(run: _Run, folder: Path, identity: dict[str, Any]) -> Iterator[Checkpoint]:
    last: Checkpoint | None = None
    for steps in run.stops():
        path = folder / f"tokens-{run.tokens_after[steps]:010d}"
        found = read_checkpoint(path)
        if found is None:
            run.go_to(last)
            loss = run.train_until(steps)
            found = Checkpoint(run.tokens_after[steps], path, steps, loss)
            write_checkpoint(found, run.save, identity=identity, facts=_facts())
        last = found
        yield found


def _facts() -> dict[str, Any]:
    versions = {name: version(name) for name in ("torch", "transformers", "peft")}
    return {"versions": {"guide_ext": VERSION, **versions}, "machine": machine_facts()}


class _Run:
    """A model in training, loaded for the first step."""

    def __init__(
        self,
        model_name: str,
        samples: Sequence[TokenizedExample],
        settings: SftSettings,
        device: str | None,
        dtype: str,
        on_step: Callable[[Step], None] | None,
    ) -> None:
        self.model_name, self.settings = model_name, settings
        self.device, self.dtype, self.on_step = device, dtype, on_step
        self.longest = max(map(len, samples))
        rows = settings.batch_tokens // settings.sequence_length
        self.batches = [
            batch
            for epoch in range(settings.epochs)
            for batch in packed_batches(
                samples,
                sequence_length=settings.sequence_length,
                rows=rows,
                seed=settings.seed,
                epoch=epoch,
            )
        ]
        sizes = (sum(len(sample) for row in batch for sample in row) for batch in self.batches)
        self.tokens_after = list(accumulate(sizes, initial=0))  # [steps + 1]
        self.steps = -1  # no model yet
        self.model: Any = None

    def stops(self) -> list[int]:
        """Return the numbers of steps after which an adapter is written."""
        wanted = {
            next((step for step, tokens in enumerate(self.tokens_after) if tokens >= target), None)
            for target in self.settings.checkpoints
        }
        return sorted({step for step in wanted if step is not None} | {len(self.batches)})

    def go_to(self, checkpoint: Checkpoint | None) -> None:
        """Go to the state of a checkpoint, or to the start without one."""
        steps = checkpoint.steps if checkpoint is not None else 0
        if self.steps == steps:
            return
        if self.model is None:
            self._load()
        if checkpoint is not None:
            lora.read_adapter(self.model, checkpoint.path)
            state = torch.load(checkpoint.path / _OPTIMIZER_FILE, weights_only=True)
            self.optimizer.load_state_dict(state)
        self.steps = steps

    def _load(self) -> None:
        settings = self.settings
        base, _ = integration.load(
            self.model_name, dtype=self.dtype, device=self.device, steerable=False
        )
        positions = getattr(base.config.get_text_config(), "max_position_embeddings", None)
        if isinstance(positions, int) and 0 < positions < self.longest:
            msg = (
                f"examples must have at most the {positions} tokens whose positions the model "
                f"knows, got one of {self.longest}; shorten it"
            )
            raise ValueError(msg)
        lora.check_packing(base)
        if settings.activation_checkpointing:
            base.activation_checkpointing_enable()
        self.model = lora.attach_adapter(
            base,
            rank=settings.rank,
            alpha=settings.alpha,
            dropout=settings.dropout,
            seed=settings.seed,
        )
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def save(self, folder: Path) -> None:
        """Write the adapter and the state of the optimiser."""
        lora.save_adapter(self.model, folder)
        torch.save(self.optimizer.state_dict(), folder / _OPTIMIZER_FILE)

    def train_until(self, steps: int) -> float | None:
        """Train up to a number of steps, and return the mean loss; None without a step."""
        losses = []
        while self.steps < steps:
            losses.append(self._step())
        return sum(losses) / len(losses) if losses else None

    def _step(self) -> float:
        settings, index = self.settings, self.steps
        rate = settings.learning_rate * schedule(index, len(self.batches), settings.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self.batches[index]
        answer_tokens = sum(len(sample) - sample.answer for row in batch for sample in row)
        # Seeded for each step: dropout must not depend on who else draws random numbers.
        with seeded(random.Random(f"dropout of {settings.seed}, step {index}").getrandbits(63)):
            total = 0.0
            for row in batch:
                loss = packed_loss(self.model, row) / answer_tokens
                loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self.weights, settings.max_gradient_norm)
        if not (math.isfinite(total) and bool(torch.isfinite(norm))):
            msg = (
                f"the loss must be finite, got {total} with a gradient of norm {float(norm)} in "
                f"step {index + 1}; lower the learning rate, or train in bfloat16 or float32"
            )
            raise FloatingPointError(msg)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        if self.on_step is not None:
            tokens = self.tokens_after[self.steps]
            self.on_step(Step(self.steps, len(self.batches), tokens, total, rate))
        return total


def packed_loss(model: Any, row: PackedRow) -> Tensor:
    """Return the loss of the answers in a row of packed samples.

    Answer tokens are predicted from their own sample alone. Prompts add no loss.

    Args:
        model: As for :func:`guide_ext.integration.lora.packed_logits`.
        row: The samples.

    Returns:
        The sum over all answer tokens, in nats: a float32 scalar, differentiable.

    Example:
        >>> model, tokenizer = integration.load_embedded()
        >>> pair = Example([{"role": "user", "content": "Summarize"}], "The cook sings.")
        >>> sample = encode_example(tokenizer, pair)
        >>> packed_loss(model, (sample, sample)).shape
        torch.Size([])

    """
    device = model.get_input_embeddings().weight.device
    ids = [token for sample in row for token in sample.input_ids]
    positions = [position for sample in row for position in range(len(sample))]
    starts = accumulate((len(sample) for sample in row), initial=0)
    answers = [
        start + place
        for start, sample in zip(starts, row, strict=False)
        for place in range(sample.answer, len(sample))
    ]
    tokens, places, wanted = (torch.tensor(v, device=device) for v in (ids, positions, answers))
    logits = lora.packed_logits(model, tokens, places, wanted - 1)
    return F.cross_entropy(logits.float(), tokens[wanted], reduction="sum")
