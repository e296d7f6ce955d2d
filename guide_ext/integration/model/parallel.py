# SPDX-License-Identifier: MIT
"""Models that are split over processes: which heads are here, and sums over those elsewhere.

Under the tensor parallelism of transformers, every process runs the whole model on the same tokens,
but computes only some heads of each attention layer: the first process the first heads, and so on.
The input of a layer and the output of its attention block are complete in every process; `locate`
checks that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Largest difference between tensors that count as the same in two processes, relative to their
# largest entry. Most are equal to the bit; other heads and other tokens differ by far more.
_SAME = 1e-3


@dataclass(frozen=True)
class Heads:
    """The query heads of one attention layer.

    Attributes:
        counts: Number of heads in each process, in order; a single number if every process has all
            heads.
        part: Index in `counts` of this process.

    Example:
        >>> second = Heads((4, 4), part=1)
        >>> second.total, second.here
        (8, slice(4, 8, None))

    """

    counts: tuple[int, ...]
    part: int = 0

    @property
    def total(self) -> int:
        """Number of heads of the layer, in all processes."""
        return sum(self.counts)

    @property
    def here(self) -> slice:
        """The heads that this process computes."""
        first = sum(self.counts[: self.part])
        return slice(first, first + self.counts[self.part])


class HeadGroup:
    """The processes that share the heads of a model among them.

    A process group cannot be copied, so copies of a model or a cache share this object.

    Args:
        group: A process group of `torch.distributed`.

    """

    def __init__(self, group: Any) -> None:
        self._group = group

    def __deepcopy__(self, memo: Mapping[int, Any]) -> HeadGroup:
        """Return the same group."""
        return self

    def is_same(self, tensor: Tensor) -> bool:
        """Return whether all processes have the same tensor; the answer is the same in all."""
        is_whole = not hasattr(tensor, "to_local")  # a DTensor says itself that it is not
        shapes = self._gathered((is_whole, tuple(tensor.shape)))
        if len(set(shapes)) > 1 or not is_whole:
            return False
        ends = torch.stack([tensor, -tensor]).float()
        dist.all_reduce(ends, dist.ReduceOp.MAX, group=self._group)
        return bool((ends[0] + ends[1]).max() <= _SAME * ends.abs().max())  # False if NaN

    def heads(self, queries: Tensor) -> Heads:
        """Find out which heads of a layer are in which process.

        Nothing in a model says so. Some plans gather the heads, so that every process computes all
        of them; then the queries are the same in all processes.

        Args:
            queries: One query per head that this process computes, ``[heads, features]``.

        """
        if self.is_same(queries):
            return Heads((queries.shape[0],))
        return Heads(tuple(self._gathered(queries.shape[0])), dist.get_rank(self._group))

    def mean(self, reduced: Tensor, heads: Heads) -> Tensor:
        """Take the mean over the heads of all processes.

        Args:
            reduced: ``[batch, channels, heads, tokens]``, for the heads in this process.
            heads: The heads of the layer.

        Returns:
            ``[batch, channels, 1, tokens]``.

        """
        if len(heads.counts) == 1:
            return reduced.mean(2, keepdim=True)
        total = reduced.detach().sum(2, keepdim=True)
        dist.all_reduce(total, group=self._group)
        return total / heads.total

    def gathered(self, reduced: Tensor, heads: Heads) -> Tensor:
        """Put the heads of all processes together, in order.

        Args:
            reduced: ``[batch, channels, heads, tokens]``, for the heads in this process.
            heads: The heads of the layer.

        Returns:
            ``[batch, channels, all heads, tokens]``.

        """
        if len(heads.counts) == 1:
            return reduced
        # all_reduce and not all_gather, because processes may have different numbers of heads.
        batch, channels, _, tokens = reduced.shape
        found = reduced.new_zeros(batch, channels, heads.total, tokens)
        found[:, :, heads.here] = reduced.detach()
        dist.all_reduce(found, group=self._group)
        return found

    def _gathered(self, own: Any) -> list[Any]:
        found: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(found, own, group=self._group)
        return found


@dataclass(frozen=True)
class Split:
    """How the heads of a model are spread over processes.

    Attributes:
        group: The processes.
        heads: The heads of each attention layer.

    """

    group: HeadGroup
    heads: tuple[Heads, ...]


def group_of(model: Any) -> HeadGroup | None:
    """Return the processes that share the heads of a model, or None if there is only one."""
    if (getattr(model, "_tp_size", None) or 1) <= 1:
        return None
    return HeadGroup(model._mesh_manager.get_mesh("tp").get_group())


def heads_of(model: Any, queries: Sequence[Tensor]) -> tuple[Heads, ...]:
    """Find out which heads of each layer are in this process; all processes must call this.

    Args:
        model: The model.
        queries: For each layer one query per head, ``[heads, features]``.

    """
    group = group_of(model)
    if group is None:
        return tuple(Heads((layer.shape[0],)) for layer in queries)
    return tuple(group.heads(layer) for layer in queries)


def is_pipelined(model: Any) -> bool:
    """Return whether a model is a pipeline, in which each process has only some of the layers."""
    stage = getattr(model, "_pp_stage", None)
    return stage is not None and stage.pp_size > 1


def unknown_part(model: Any, heads: Sequence[Heads]) -> str:
    """Describe the part of a model that is here, if nothing is known of the rest; else empty."""
    if is_pipelined(model):
        stage = model._pp_stage
        return f"stage {stage.pp_rank + 1} of {stage.pp_size} of a pipeline, with its layers alone"
    most = max(layer.total for layer in heads)
    stated = getattr(model.config.get_text_config(), "num_attention_heads", None)
    if not (dist.is_available() and dist.is_initialized() and isinstance(stated, int)):
        return ""
    if most < stated:
        return (
            f"{most} of {stated} heads per layer, and no DistributedConfig on the "
            f"{type(model).__name__} that says where the others are"
        )
    return ""
