# SPDX-License-Identifier: MIT
"""What a measurement of Influence returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from guide_ext.support.values import is_int


@dataclass(frozen=True)
class Influence:
    """What was measured.

    Attributes:
        values: ``[batch, layers + 1, groups, tokens]``, float32, on the CPU: level 0 is 1 on marked
            tokens and 0 elsewhere, level l is after layer l. 0 on padding. Between 0 and 1; over
            groups that cover the whole text it sums to 1, but for models with attention sinks,
            whose share belongs to no token and which ``"exact"`` alone leaves out of account.
        groups: Names of the groups.
        form: Which recursion.
        mask: ``[batch, tokens]``, bool: False on padding.
        prompt_tokens: Slots of the prompt; what follows was generated.
        by_head: Attention of every head to the groups, ``[batch, layers, groups, heads, tokens]``,
            float32, as the recursion saw it before it took the mean; None unless asked for.
        token_ids: ``[batch, tokens]``, int64, of the text that was measured.

    """

    values: Tensor
    groups: tuple[str, ...]
    form: str
    mask: Tensor
    prompt_tokens: int
    token_ids: Tensor | None = None
    by_head: Tensor | None = None

    def at_end_of_prompt(self, tokens: int = 10) -> Tensor:
        """Return the mean over the last tokens of the prompt, after the last layer.

        The paper predicts from it whether an instruction will be followed.

        Args:
            tokens: How many, from the end; fewer where a prompt is shorter.

        Returns:
            ``[batch, groups]``, float32.

        Raises:
            ValueError: If `tokens` is no whole number from 1.

        Example:
            >>> import torch
            >>> values = torch.tensor([0.0, 1.0, 0.5, 0.25]).view(1, 1, 1, 4)
            >>> mask = torch.ones(1, 4, dtype=torch.bool)
            >>> Influence(values, ("rule",), "paper", mask, 4).at_end_of_prompt(2)
            tensor([[0.3750]])

        """
        if not is_int(tokens) or tokens < 1:
            raise ValueError(f"tokens must be a whole number from 1, got {tokens!r}")
        begin = max(0, self.prompt_tokens - tokens)
        last = self.values[:, -1, :, begin : self.prompt_tokens]
        counted = self.mask[:, None, begin : self.prompt_tokens].to(last.dtype)
        return (last * counted).sum(-1) / counted.sum(-1).clamp(min=1)
