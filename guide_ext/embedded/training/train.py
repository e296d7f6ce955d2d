# SPDX-License-Identifier: MIT
"""Train the embedded model from scratch: ``python -m guide_ext.embedded.training.train``.

A seed gives one run and one model; there is no selection of checkpoints. A run takes about twelve
minutes on one CPU core, and is deterministic for a seed and a number of threads. After an
interruption, the same command continues from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from guide_ext.embedded.training.curriculum import make_batch
from guide_ext.embedded.training.network import Network, NetworkConfig, export
from guide_ext.embedded.training.tokenizer import PAD_ID, chat, save_tokenizer, train_tokenizer
from guide_ext.support.files import write_text


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training run; the defaults and a seed fully determine the shipped model."""

    seed: int = 1
    tokens: int = 6_000_000
    batch_tokens: int = 2048
    learning_rate: float = 3e-3
    final_learning_rate_share: float = 0.05
    warmup_steps: int = 100
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    max_gradient_norm: float = 1.0
    log_every: int = 100
    network: NetworkConfig = field(default_factory=NetworkConfig)


@dataclass(frozen=True)
class LessonBatch:
    """The tokens of one step, and the positions whose next token is learnt."""

    input_ids: Tensor
    positions: Tensor
    targets: Tensor


def encode_batch(
    tokenizer: Tokenizer, rng: random.Random, progress: float, size: int
) -> LessonBatch:
    """Draw, tokenise and right-pad the examples of one step; only answers are learnt.

    Args:
        tokenizer: The tokenizer of the embedded model.
        rng: Source of all randomness.
        progress: Share of the training that is done, in ``[0, 1]``.
        size: Approximate number of tokens.

    Returns:
        ``input_ids``, ``[batch, seqlen]``; ``positions``, indices into the flattened ``input_ids``,
        and ``targets``, the token that follows each, both ``[answer tokens]``.

    """
    examples = make_batch(rng, progress, size)
    rows = [
        (
            tokenizer.encode(chat(example.prompt), add_special_tokens=False).ids,
            tokenizer.encode(f" {example.answer}</s>", add_special_tokens=False).ids,
        )
        for example in examples
    ]
    seqlen = max(len(prompt) + len(answer) for prompt, answer in rows)
    input_ids = torch.full((len(rows), seqlen), PAD_ID)
    positions: list[int] = []
    targets: list[int] = []
    for row, (prompt, answer) in enumerate(rows):
        input_ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        first = row * seqlen + len(prompt) - 1
        positions.extend(range(first, first + len(answer)))
        targets.extend(answer)
    return LessonBatch(input_ids, torch.tensor(positions), torch.tensor(targets))


class Trainer:
    """The state of one run: network, optimiser, random generator, counters and log."""

    def __init__(self, config: TrainingConfig, tokenizer: Tokenizer) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.rng = random.Random(config.seed)
        torch.manual_seed(config.seed)
        self.network = Network(config.network)
        weights = list(self.network.parameters())
        groups = [
            {"params": [w for w in weights if w.dim() > 1], "weight_decay": config.weight_decay},
            {"params": [w for w in weights if w.dim() == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)
        self.step = 0
        self.tokens = 0
        self.cpu_seconds = 0.0
        self.log: list[dict[str, float]] = []
        self._recent_losses: list[float] = []

    @property
    def finished(self) -> bool:
        """Whether all tokens have been seen."""
        return self.tokens >= self.config.tokens

    def _learning_rate(self) -> float:
        config = self.config
        warmup = min(1.0, (self.step + 1) / config.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * self.tokens / config.tokens))
        floor = config.final_learning_rate_share
        return config.learning_rate * warmup * (floor + (1 - floor) * cosine)

    def train_step(self) -> float:
        """Take one optimiser step and return its loss (nats per answer token)."""
        started = time.process_time()
        config, progress = self.config, self.tokens / self.config.tokens
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        batch = encode_batch(self.tokenizer, self.rng, progress, config.batch_tokens)
        states = self.network.hidden_states(batch.input_ids).flatten(0, 1)[batch.positions]
        loss = F.cross_entropy(self.network.logits(states), batch.targets)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.max_gradient_norm)
        self.optimizer.step()
        self.step += 1
        self.tokens += batch.input_ids.numel()
        self.cpu_seconds += time.process_time() - started
        self._recent_losses.append(loss.item())
        if self.step % config.log_every == 0 or self.finished:
            mean = sum(self._recent_losses) / len(self._recent_losses)
            entry = {"step": self.step, "tokens": self.tokens, "loss": round(mean, 4)}
            self.log.append({**entry, "cpu_seconds": round(self.cpu_seconds, 1)})
            self._recent_losses.clear()
        return loss.item()

    def save(self, path: Path) -> None:
        """Write a checkpoint; after an interruption, either the old or the new one is complete."""
        unfinished = path.with_suffix(".partial")
        torch.save(
            {
                "config": json.dumps(asdict(self.config)),
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "rng": json.dumps(self.rng.getstate()),
                "counters": (self.step, self.tokens, self.cpu_seconds),
                "log": json.dumps(self.log),
                "recent_losses": self._recent_losses,
            },
            unfinished,
        )
        unfinished.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Args:
            path: A file that :meth:`save` wrote.

        Raises:
            ValueError: If the checkpoint belongs to a run with other settings.

        """
        saved: dict[str, Any] = torch.load(path, weights_only=True)
        if saved["config"] != json.dumps(asdict(self.config)):
            msg = (
                f"{path} must be a checkpoint of this run, got one with other settings:"
                f" {saved['config']}; choose another --out or delete it"
            )
            raise ValueError(msg)
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        version, internal, gauss = json.loads(saved["rng"])
        self.rng.setstate((version, tuple(internal), gauss))
        self.step, self.tokens, self.cpu_seconds = saved["counters"]
        self.log = json.loads(saved["log"])
        self._recent_losses = list(saved["recent_losses"])


def train(
    config: TrainingConfig, folder: Path, *, checkpoint_every: int = 100, quiet: bool = False
) -> None:
    """Train, or continue training, and write the model folder.

    Args:
        config: The run.
        folder: Gets the model, the tokenizer, ``training.json`` and, until the run is finished,
            ``checkpoint.pt``.
        checkpoint_every: Steps between checkpoints.
        quiet: Show no progress bar.

    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    tokenizer = train_tokenizer()
    trainer = Trainer(config, tokenizer)
    if checkpoint.exists():
        trainer.load(checkpoint)
    columns = (
        TextColumn("training, loss {task.fields[loss]:.3f}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=quiet) as progress:
        bar = progress.add_task("", total=config.tokens, completed=trainer.tokens, loss=math.nan)
        while not trainer.finished:
            loss = trainer.train_step()
            progress.update(bar, completed=trainer.tokens, loss=loss)
            if trainer.step % checkpoint_every == 0:
                trainer.save(checkpoint)
    export(trainer.network, folder)
    save_tokenizer(tokenizer, folder)
    summary = {
        "arguments": asdict(config),
        "parameters": sum(weight.numel() for weight in trainer.network.parameters()),
        "steps": trainer.step,
        "tokens": trainer.tokens,
        "cpu_seconds": round(trainer.cpu_seconds, 1),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "log": trainer.log,
    }
    write_text(folder / "training.json", json.dumps(summary, indent=1) + "\n")
    checkpoint.unlink(missing_ok=True)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        msg = f"must be at least 1, got {value}"
        raise argparse.ArgumentTypeError(msg)
    return value


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m guide_ext.embedded.training.train")
    parser.add_argument("--seed", type=int, default=TrainingConfig.seed)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--tokens", type=_positive, default=TrainingConfig.tokens)
    parser.add_argument(
        "--threads", type=_positive, default=1, help="results depend on it slightly"
    )
    options = parser.parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(options.threads)
    try:
        train(TrainingConfig(seed=options.seed, tokens=options.tokens), options.out)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
