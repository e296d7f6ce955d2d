# SPDX-License-Identifier: MIT
"""What a measurement of Influence returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from guide_ext.support.values import is_int


@dataclass(frozen=True)
class Influence:
    """Influence of groups of tokens on every token of a batch, at every layer.

    Of an encoder–decoder, this is the Influence on the target, the text that the decoder reads and
    writes; `source` is that on the source. A layer of the decoder counts twice: after its attention
    to its own text, and after that to the source.

    Attributes:
        values: ``[batch, layers + 1, groups, tokens]``, float32, on the CPU, from 0 to 1. Level 0
            is 1 on marked tokens and 0 elsewhere; level l is after layer l. 0 on padding. If the
            groups divide the whole text among them, their values sum to 1. With attention sinks the
            sum is smaller, because the share of a sink belongs to no token; only the form
            ``"exact"`` does not count that share.
        groups: Names of the groups.
        form: Name of the recursion, see `guide_ext.influence.form_named`.
        mask: ``[batch, tokens]``, bool: False on padding.
        prompt_tokens: Length of the prompts, padding included; the tokens after it were generated.
        by_head: Attention of every head to the groups, before the recursion takes the mean over
            heads, ``[batch, layers, groups, heads, tokens]``, float32; None unless it was asked
            for.
        token_ids: Ids of the measured text, ``[batch, tokens]``, int64; None if it was given as
            embeddings.
        source: Encoder–decoders only: the Influence on what the encoder reads, of the same groups,
            a row for each row of the target. Its last level is what the decoder attends to.

    """

    values: Tensor
    groups: tuple[str, ...]
    form: str
    mask: Tensor
    prompt_tokens: int
    token_ids: Tensor | None = None
    by_head: Tensor | None = None
    source: Influence | None = None

    def at_end_of_prompt(self, tokens: int = 10) -> Tensor:
        """Return the mean over the last tokens of the prompt, after the last layer.

        The paper uses it to predict whether an instruction will be followed.

        Args:
            tokens: How many tokens to average; a shorter prompt has fewer.

        Returns:
            ``[batch, groups]``, float32.

        Raises:
            ValueError: If `tokens` is not a whole number from 1.

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
