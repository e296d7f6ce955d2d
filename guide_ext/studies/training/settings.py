# SPDX-License-Identifier: MIT
"""How supervised fine-tuning trains: the paper's settings, and some for the embedded model."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class SftSettings:
    """How to train.

    The defaults are the paper's (App. D). What the paper leaves open is as in transformers'
    trainer: AdamW without weight decay, gradients clipped to a norm of 1. The loss is the mean over
    the answer tokens of a batch; prompts have no loss.

    Attributes:
        rank: Rank of the adapters; all linear modules but the output head have one.
        alpha: Scale of the adapters: they are multiplied by ``alpha / rank``.
        dropout: Share of the adapters' inputs that is dropped, in [0, 1).
        learning_rate: Largest learning rate.
        warmup_steps: Steps over which the learning rate rises to the largest; then it falls to zero
            along half a cosine.
        epochs: How often every example is seen.
        batch_tokens: Tokens of an optimiser step, in ``batch_tokens // sequence_length`` rows.
        sequence_length: Largest number of tokens in a row of packed samples.
        checkpoints: Numbers of trained tokens after which an adapter is written, ascending; 0 is
            the model itself. One is always written at the end of the training.
        weight_decay: Weight decay of AdamW.
        max_gradient_norm: Largest norm of the gradient of a step.
        activation_checkpointing: Compute activations twice instead of keeping them: for long rows
            of large models.
        seed: Seed of the adapter's first values, of the order of the samples and of dropout.

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> SftSettings.paper().batch_tokens // SftSettings.paper().sequence_length
        16
        >>> SftSettings(rank=0)
        Traceback (most recent call last):
        ...
        ValueError: rank must be at least 1, got 0

    """

    rank: int = 64
    alpha: float = 16
    dropout: float = 0.05
    learning_rate: float = 1e-4
    warmup_steps: int = 10
    epochs: int = 2
    batch_tokens: int = 131_072
    sequence_length: int = 8192
    checkpoints: tuple[int, ...] = tuple(131_072 * batches for batches in (1, 2, 4, 8, 16, 32))
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    activation_checkpointing: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, least in (
            ("rank", 1), ("warmup_steps", 0), ("epochs", 1), ("sequence_length", 2),
            ("batch_tokens", self.sequence_length),
        ):  # fmt: skip
            if getattr(self, name) < least:
                msg = f"{name} must be at least {least}, got {getattr(self, name)}"
                raise ValueError(msg)
        for name in ("alpha", "learning_rate", "max_gradient_norm"):
            if not 0 < getattr(self, name) < math.inf:
                msg = f"{name} must be positive, got {getattr(self, name)}"
                raise ValueError(msg)
        if not 0 <= self.dropout < 1:
            msg = f"dropout must be from 0 to below 1, got {self.dropout}"
            raise ValueError(msg)
        if not 0 <= self.weight_decay < math.inf:
            msg = f"weight_decay must not be negative, got {self.weight_decay}"
            raise ValueError(msg)
        ascending = sorted(set(self.checkpoints))
        if list(self.checkpoints) != ascending or any(tokens < 0 for tokens in ascending):
            msg = f"checkpoints must ascend from 0 or more, got {self.checkpoints}"
            raise ValueError(msg)

    @classmethod
    def paper(cls) -> SftSettings:
        """Return the settings of the paper's Appendix D, for models of some billion parameters."""
        return cls()

    @classmethod
    def embedded(cls) -> SftSettings:
        """Return settings for the embedded model, whose world is small.

        Rank, alpha, dropout, modules, schedule, warm-up and epochs are the paper's. Changed are:

        - rows of 512 tokens: its documents have at most 384;
        - batches of 2048 tokens, as it was trained with: one batch of the paper has more tokens
          than all training here;
        - a learning rate of 2e-3, below the 3e-3 that the model itself was trained with: small
          models take larger steps. How many tokens it takes to draw level with GUIDE depends on
          this more than on anything else: 13,000 here, a little fewer with 4e-3, more than
          126,000 with the paper's 1e-4;
        - no activation checkpointing, which saves memory that is not needed here.
        """
        return cls(
            learning_rate=2e-3,
            batch_tokens=2048,
            sequence_length=512,
            checkpoints=tuple(2048 * batches for batches in (0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 64)),
            activation_checkpointing=False,
        )


def schedule(step: int, steps: int, warmup_steps: int) -> float:
    """Return the learning rate of a step, as a share of the largest.

    A linear warm-up, then half a cosine that would reach zero one step after the last.

    Args:
        step: Number of the step, from 0.
        steps: Number of steps.
        warmup_steps: Number of steps of the warm-up; the last of them has the largest rate.

    Returns:
        A share in (0, 1]: every step has an effect.

    Example:
        >>> [round(schedule(step, 6, 2), 2) for step in range(6)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]

    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))
