# SPDX-License-Identifier: MIT
"""A small batched engine for the embedded model: greedy decoding with a bias on marked tokens.

It measures training runs without transformers. It also checks the integration independently: it
adds the bias to plain attention logits, and shares only the reading of tags with the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from guide_ext.embedded.training.network import Cache, Network, load
from guide_ext.embedded.training.tokenizer import EOS_ID, PAD_ID, chat
from guide_ext.marking.spans import parse

_MASKED = -1e9
"""Finite, because −inf would make a row of padding, which sees no token, NaN."""


class LeanEngine:
    """Greedy generation; an instance is a :data:`~.evaluate.Generate`.

    Args:
        network: The model.
        tokenizer: Its tokenizer.
        max_new_tokens: Longest answer, in tokens; the longest right one has 30.

    """

    def __init__(self, network: Network, tokenizer: Tokenizer, *, max_new_tokens: int = 40) -> None:
        self.network = network.eval()
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens

    @classmethod
    def from_folder(cls, folder: Path) -> LeanEngine:
        """Load a model folder that training wrote."""
        return cls(load(folder), Tokenizer.from_file(str(folder / "tokenizer.json")))

    def encode(self, prompt: str) -> tuple[list[int], list[bool]]:
        """Tokenise a tagged user message as a chat.

        Args:
            prompt: Text with tags.

        Returns:
            Token ids, and for each token whether it overlaps marked text.

        """
        marked = parse(prompt)
        offset = chat("\0").index("\0")
        encoding = self.tokenizer.encode(chat(marked.text), add_special_tokens=False)
        is_marked = [
            any(start < span.end + offset and end > span.start + offset for span in marked.spans)
            for start, end in encoding.offsets
        ]
        return encoding.ids, is_marked

    def _prefill(self, prompts: Sequence[str], delta: float) -> tuple[Tensor, Tensor, Cache]:
        rows = [self.encode(prompt) for prompt in prompts]
        seqlen = max(len(ids) for ids, _ in rows)
        input_ids = torch.full((len(rows), seqlen), PAD_ID)
        key_bias = torch.full((len(rows), seqlen), _MASKED)
        for row, (ids, is_marked) in enumerate(rows):
            input_ids[row, seqlen - len(ids) :] = torch.tensor(ids)
            key_bias[row, seqlen - len(ids) :] = delta * torch.tensor(is_marked).float()
        real = key_bias > _MASKED / 2
        causal = torch.full((seqlen, seqlen), _MASKED).triu(1)
        cache: Cache = []
        states = self.network.hidden_states(
            input_ids,
            attn_bias=key_bias[:, None, None, :] + causal,
            position_ids=(real.cumsum(-1) - 1).clamp(min=0),
            cache=cache,
        )
        return self.network.logits(states[:, -1]), key_bias, cache

    @torch.no_grad()
    def next_token_probabilities(self, prompts: Sequence[str], delta: float) -> Tensor:
        """Return the exact distribution of the first answer token.

        Args:
            prompts: Tagged user messages.
            delta: Bias on the marked tokens, in nats.

        Returns:
            ``[len(prompts), vocab_size]``, float32.

        """
        return self._prefill(prompts, delta)[0].softmax(-1)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], delta: float) -> list[str]:
        """Complete tagged user messages greedily.

        Args:
            prompts: Tagged user messages.
            delta: Bias on the marked tokens, in nats.

        Returns:
            One completion per prompt, without special tokens.

        """
        logits, key_bias, cache = self._prefill(prompts, delta)
        position_ids = (key_bias > _MASKED / 2).sum(-1, keepdim=True)
        tokens: list[Tensor] = []
        finished = torch.zeros(len(prompts), dtype=torch.bool)
        while True:
            tokens.append(logits.argmax(-1).masked_fill(finished, PAD_ID))
            finished |= tokens[-1] == EOS_ID
            if finished.all() or len(tokens) == self.max_new_tokens:
                break
            key_bias = torch.cat((key_bias, torch.zeros(len(prompts), 1)), dim=1)
            states = self.network.hidden_states(
                tokens[-1][:, None],
                attn_bias=key_bias[:, None, None, :],
                position_ids=position_ids,
                cache=cache,
            )
            logits = self.network.logits(states[:, -1])
            position_ids = position_ids + 1
        rows = torch.stack(tokens, dim=1).tolist()
        return self.tokenizer.decode_batch(rows, skip_special_tokens=True)
