# SPDX-License-Identifier: MIT
"""A small Mistral network for training on a CPU, and its export as a transformers checkpoint.

The export writes the files of the checkpoint itself, so that training needs no transformers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from guide_ext.embedded.training.tokenizer import BOS_ID, EOS_ID, PAD_ID, VOCAB_SIZE
from guide_ext.support.files import write_text

_EPS = 1e-5


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network; the defaults are those of the shipped model (0.94 M parameters)."""

    vocab_size: int = VOCAB_SIZE
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    intermediate_size: int = 352
    max_positions: int = 1024
    rope_theta: float = 10_000.0

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads


Cache = list[tuple[Tensor, Tensor]]
"""Keys and values per layer, each ``[batch, num_kv_heads, seqlen_k, head_dim]``."""


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-high, low), dim=-1) * sin


class _Block(nn.Module):
    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        hidden, head_dim = config.hidden_size, config.head_dim
        self.config = config
        self.head_split = (
            config.num_heads * head_dim,
            config.num_kv_heads * head_dim,
            config.num_kv_heads * head_dim,
        )
        self.qkv = nn.Linear(hidden, sum(self.head_split), bias=False)
        self.output = nn.Linear(hidden, hidden, bias=False)
        self.gate_up = nn.Linear(hidden, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, hidden, bias=False)
        self.attention_norm = nn.Parameter(torch.ones(hidden))
        self.mlp_norm = nn.Parameter(torch.ones(hidden))

    def forward(
        self,
        states: Tensor,
        rotary: tuple[Tensor, Tensor],
        attn_bias: Tensor | None,
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        batch, seqlen, hidden = states.shape
        normed = F.rms_norm(states, (hidden,), self.attention_norm, _EPS)
        query, key, value = (
            part.view(batch, seqlen, -1, self.config.head_dim).transpose(1, 2)
            for part in self.qkv(normed).split(self.head_split, dim=-1)
        )
        query, key = _rotate(query, *rotary), _rotate(key, *rotary)
        if past is not None:
            key, value = torch.cat((past[0], key), dim=2), torch.cat((past[1], value), dim=2)
        group_size = self.config.num_heads // self.config.num_kv_heads
        attended = F.scaled_dot_product_attention(
            query,
            key.repeat_interleave(group_size, dim=1),
            value.repeat_interleave(group_size, dim=1),
            attn_mask=attn_bias,
            is_causal=attn_bias is None,
        )
        states = states + self.output(attended.transpose(1, 2).reshape(batch, seqlen, hidden))
        gate, up = self.gate_up(F.rms_norm(states, (hidden,), self.mlp_norm, _EPS)).chunk(2, dim=-1)
        return states + self.down(F.silu(gate) * up), (key, value)


class Network(nn.Module):
    """Mistral: RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied embeddings."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        """Initialise the weights from torch's global generator."""
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList([_Block(config) for _ in range(config.num_layers)])
        self.norm = nn.Parameter(torch.ones(config.hidden_size))
        exponents = torch.arange(0, config.head_dim, 2).float() / config.head_dim
        angles = torch.outer(
            torch.arange(config.max_positions).float(), 1 / config.rope_theta**exponents
        )
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        residual_scale = 1 / math.sqrt(2 * self.config.num_layers)
        nn.init.normal_(self.embedding.weight, 0.0, 0.05)
        for name, weight in self.blocks.named_parameters():
            if weight.dim() > 1:
                writes_residual = "output" in name or "down" in name
                std = (residual_scale if writes_residual else 1.0) / math.sqrt(weight.shape[1])
                nn.init.normal_(weight, 0.0, std)

    def hidden_states(
        self,
        input_ids: Tensor,
        attn_bias: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Run the blocks.

        Args:
            input_ids: ``[batch, seqlen_q]``, int64.
            attn_bias: Added to the attention logits, ``[batch, 1, seqlen_q, seqlen_k]``; it must
                include the causal mask. If None, attention is causal and unbiased.
            position_ids: ``[batch, seqlen_q]``; 0, 1, 2, … by default.
            cache: Keys and values of earlier tokens, at first an empty list; the new ones are added
                in place. If it is not empty, ``attn_bias`` is required.

        Returns:
            Normalised states of the last layer, ``[batch, seqlen_q, hidden_size]``.

        """
        if position_ids is None:
            cos, sin = self.cos[: input_ids.shape[1]], self.sin[: input_ids.shape[1]]
        else:
            cos = self.cos[position_ids, :].unsqueeze(1)
            sin = self.sin[position_ids, :].unsqueeze(1)
        states = self.embedding(input_ids)
        new_cache: Cache = []
        for index, block in enumerate(self.blocks):
            past = cache[index] if cache else None
            states, pair = block(states, (cos, sin), attn_bias, past)
            new_cache.append(pair)
        if cache is not None:
            cache[:] = new_cache
        return F.rms_norm(states, (self.config.hidden_size,), self.norm, _EPS)

    def logits(self, states: Tensor) -> Tensor:
        """Map states to vocabulary logits with the tied embedding."""
        return states @ self.embedding.weight.T


def _named_weights(network: Network) -> dict[str, Tensor]:
    weights = {
        "model.embed_tokens.weight": network.embedding.weight,
        "model.norm.weight": network.norm,
    }
    for index, block in enumerate(cast("Iterable[_Block]", network.blocks)):
        prefix = f"model.layers.{index}."
        query, key, value = torch.split(block.qkv.weight, list(block.head_split))
        gate, up = block.gate_up.weight.chunk(2)
        weights |= {
            f"{prefix}self_attn.q_proj.weight": query,
            f"{prefix}self_attn.k_proj.weight": key,
            f"{prefix}self_attn.v_proj.weight": value,
            f"{prefix}self_attn.o_proj.weight": block.output.weight,
            f"{prefix}mlp.gate_proj.weight": gate,
            f"{prefix}mlp.up_proj.weight": up,
            f"{prefix}mlp.down_proj.weight": block.down.weight,
            f"{prefix}input_layernorm.weight": block.attention_norm,
            f"{prefix}post_attention_layernorm.weight": block.mlp_norm,
        }
    return weights


def _write_json(path: Path, value: dict[str, object]) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def export(network: Network, folder: Path) -> None:
    """Write ``network`` as a bf16 transformers checkpoint that ``from_pretrained`` loads.

    Args:
        network: The trained network.
        folder: Gets ``config.json``, ``generation_config.json`` and ``model.safetensors``.

    """
    folder.mkdir(parents=True, exist_ok=True)
    config = network.config
    tokens = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    _write_json(
        folder / "config.json",
        {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "dtype": "bfloat16",
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": config.max_positions,
            "rms_norm_eps": _EPS,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "rope_theta": config.rope_theta,
            "sliding_window": None,
            "attention_dropout": 0.0,
            "tie_word_embeddings": True,
            "use_cache": True,
            **tokens,
        },
    )
    _write_json(folder / "generation_config.json", {**tokens, "do_sample": False})
    tensors = {
        name: weight.detach().to(torch.bfloat16).contiguous().clone()
        for name, weight in _named_weights(network).items()
    }
    path = folder / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod((folder / "config.json").stat().st_mode)  # safetensors lets only the owner read it


def load(folder: Path) -> Network:
    """Load a folder that :func:`export` wrote, in float32.

    Args:
        folder: The checkpoint folder.

    Returns:
        The network with the stored bf16 weights.

    """
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    network = Network(
        NetworkConfig(
            vocab_size=stored["vocab_size"],
            hidden_size=stored["hidden_size"],
            num_layers=stored["num_hidden_layers"],
            num_heads=stored["num_attention_heads"],
            num_kv_heads=stored["num_key_value_heads"],
            intermediate_size=stored["intermediate_size"],
            max_positions=stored["max_position_embeddings"],
            rope_theta=stored["rope_theta"],
        )
    )
    tensors = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, weight in _named_weights(network).items():
            # Rows of a fused matrix are views of it, so copying fills the network.
            weight.copy_(tensors[name])
    return network
