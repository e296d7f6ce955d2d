# SPDX-License-Identifier: MIT
"""From marked tokens to numbers: a bias per token and a strength per layer and head.

Three published methods are one call each here. Each adds a constant to the attention scores of some
keys in some heads; they differ in the keys, the constant and the heads. A fourth way, `by_head`,
states a constant for every head.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guide_ext.marking.marked_text import covered
from guide_ext.marking.tokens import Encoding
from guide_ext.support.values import as_float, finite, is_int


@dataclass(frozen=True)
class Steering:
    """What marks mean: how many nats, on which tokens, in which layers and heads.

    Make one with `guide`, `pasta`, `instaboost` or `by_head`.

    Attributes:
        delta_mid: Nats of a level-2 mark; levels 1 and 3 mean half and twice as much. None if
            every mark means `on_marked`, whatever its level.
        on_marked: Nats of every marked token, if `delta_mid` is None.
        on_others: Nats of the prompt's other tokens, if anything is marked.
        layers: Steered layers, counted from 0; None for all.
        heads: Steered query heads of each steered layer; None for all.
        heads_by_layer: (layer, heads) pairs, instead of `layers` and `heads`.
        table: Nats of a level-2 mark for every layer and head; then `delta_mid` is 1, and what
            chooses layers and heads is None.

    """

    delta_mid: float | None
    on_marked: float = 0.0
    on_others: float = 0.0
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    heads_by_layer: tuple[tuple[int, tuple[int, ...]], ...] | None = None
    table: tuple[tuple[float, ...], ...] | None = None

    @classmethod
    def guide(
        cls,
        delta: float,
        layers: Iterable[int] | None = None,
        heads: Iterable[int] | Mapping[int, Iterable[int]] | None = None,
    ) -> Steering:
        """Add nats to the scores of marked tokens.

        Args:
            delta: Δ of a level-2 mark (``<!!->``), nats; levels 1 and 3 mean half and twice as
                much. A mark that states its own Δ keeps it. A negative Δ plays marked text down.
            layers: Steered layers, counted from 0; None for all.
            heads: Steered heads of these layers, or ``{layer: [head, ...]}``; None for all.

        Raises:
            ValueError: If `delta` is NaN or infinite, a selection is empty or holds anything but
                whole numbers from 0, or `layers` are given together with heads by layer.

        Source:
            GUIDE, equation 4: the bias Δ in every layer and head.

        Example:
            >>> Steering.guide(2.0, layers=[0, 1]).strength(num_layers=3, num_heads=2)
            tensor([[1., 1.],
                    [1., 1.],
                    [0., 0.]])

        """
        delta = finite("delta", delta)
        if isinstance(heads, Mapping):
            if layers is not None:
                raise ValueError(
                    "layers must be None when heads are given by layer, "
                    f"got layers {list(layers)} and heads of layers {list(heads)}"
                )
            return cls(delta, heads_by_layer=_by_layer(heads))
        return cls(delta, layers=_indices("layers", layers), heads=_indices("heads", heads))

    @classmethod
    def pasta(cls, alpha: float, heads: Mapping[int, Iterable[int]] | None = None) -> Steering:
        """Scale the attention that chosen heads pay to the *other* tokens of the prompt by α.

        Args:
            alpha: Factor, above 0; PASTA uses 0.01. A factor below 1 strengthens marked text.
            heads: ``{layer: [head, ...]}``, counted from 0; None for all.

        Raises:
            ValueError: If `alpha` is not a finite number above 0, or the selection is not valid.

        Source:
            PASTA (Zhang et al. 2023), equation 2: scaling a probability and renormalising is a
            bias of log α. Generated tokens are not scaled, as in the authors' code.

        Example:
            >>> steering = Steering.pasta(0.01, heads={0: [1]})
            >>> round(steering.on_others, 3), steering.strength(num_layers=1, num_heads=2)
            (-4.605, tensor([[0., 1.]]))

        """
        selection = None if heads is None else _by_layer(heads)
        return cls(None, on_others=_log("alpha", alpha), heads_by_layer=selection)

    @classmethod
    def instaboost(cls, multiplier: float) -> Steering:
        """Multiply the attention that every head pays to marked tokens, and renormalise.

        Args:
            multiplier: M, above 0.

        Raises:
            ValueError: If `multiplier` is not a finite number above 0.

        Source:
            InstABoost (2025): multiplying probabilities and renormalising is a bias of log M.

        Example:
            >>> round(Steering.instaboost(5.0).on_marked, 3)
            1.609

        """
        return cls(None, on_marked=_log("multiplier", multiplier))

    @classmethod
    def by_head(cls, table: Sequence[Sequence[float]] | Tensor) -> Steering:
        """Add to the scores of marked tokens what is stated for each layer and head.

        Args:
            table: Δ of a level-2 mark for every layer and head of the model, nats, ``[layers,
                heads]``; levels 1 and 3 mean half and twice as much. Marks must have levels: one
                that states its own Δ is an error, as it would have another meaning in each head.

        Raises:
            ValueError: If the table is empty, its rows differ in length, or a number is not finite.

        Example:
            >>> steering = Steering.by_head([[0.5, 0.0], [2.0, -1.0]])
            >>> steering.strength(num_layers=2, num_heads=2)
            tensor([[ 0.5000,  0.0000],
                    [ 2.0000, -1.0000]])

        """
        rows = table.tolist() if isinstance(table, Tensor) else table
        if isinstance(rows, str) or not isinstance(rows, Sequence) or not rows:
            raise ValueError(f"table must be [layers, heads] of nats, got {table!r}")
        if any(
            isinstance(row, str | bytes) or not isinstance(row, Sequence) or not row for row in rows
        ):
            raise ValueError(f"table must be [layers, heads] of nats, got {table!r}")
        if len({len(row) for row in rows}) > 1:
            raise ValueError(
                "table must have as many heads in every layer, got "
                f"{sorted({len(row) for row in rows})}"
            )
        nats = tuple(tuple(finite("table", value) for value in row) for row in rows)
        return cls(1.0, table=nats)

    def bias(self, encoding: Encoding) -> Tensor:
        """Return the bias of every token of a prompt.

        Args:
            encoding: A tokenised prompt with marks. Marks of Influence groups do not steer.

        Returns:
            Nats, ``[tokens]``, float32; all zero if nothing is marked. With a `delta_mid`, marks on
            the same token add up; without, a second mark on a token changes nothing.

        Raises:
            ValueError: If marks add up to more than float32 can hold, or one states its own Δ
                while there is a `table`.
            TypeError: If `encoding` is not an `Encoding`.

        Example:
            >>> from guide_ext.spans import Span
            >>> marks = (Span(1, 3, level=2),)
            >>> prompt = Encoding([5, 6, 7, 8], [(0, 1), (1, 2), (2, 3), (3, 4)], "abcd", (), marks)
            >>> Steering.guide(2.0).bias(prompt)
            tensor([0., 2., 2., 0.])
            >>> Steering.pasta(1 / math.e).bias(prompt)
            tensor([-1.,  0.,  0., -1.])

        """
        check_encoding("encoding", encoding)
        if self.table is not None:
            own = [span.delta for span in encoding.spans if span.delta is not None]
            if own:
                raise ValueError(
                    "marks must have levels, such as <!!->, under a steering with a Δ for each "
                    f"head, got one that states its own, {own[0]:g}"
                )
        if self.delta_mid is not None:
            nats = torch.tensor(encoding.nats(self.delta_mid), dtype=torch.float32)
            if not bool(torch.isfinite(nats).all()):
                raise ValueError(
                    "marks must add up to finite nats in float32, "
                    f"got delta={self.delta_mid!r} and spans {list(encoding.token_spans)}"
                )
            return nats
        emphasis = [span for span in encoding.token_spans if span.group is None]
        marked = torch.tensor(covered(emphasis, len(encoding.input_ids)), dtype=torch.bool)
        if not bool(marked.any()):
            return torch.zeros(len(encoding.input_ids))
        return torch.where(marked, float(self.on_marked), float(self.on_others))

    def strength(self, num_layers: int, num_heads: int) -> Tensor | None:
        """Return the multiplier of the bias for every layer and head.

        Args:
            num_layers: Attention layers of the model.
            num_heads: Query heads per layer.

        Returns:
            ``[layers, heads]``, float32, 1 where steered and 0 elsewhere, or the `table`; None if
            all are steered.

        Raises:
            ValueError: If a chosen layer or head is not in the model, the table is that of another
                model, or an argument is not a whole number from 1.

        """
        num_layers, num_heads = _count("num_layers", num_layers), _count("num_heads", num_heads)
        if self.table is not None:
            found = (len(self.table), len(self.table[0]))
            if found != (num_layers, num_heads):
                raise ValueError(
                    f"table must be [layers, heads] = [{num_layers}, {num_heads}], as this model "
                    f"is, got {list(found)}; was it learned on another model?"
                )
            return torch.tensor(self.table, dtype=torch.float32)
        if self.layers is None and self.heads is None and self.heads_by_layer is None:
            return None
        if self.heads_by_layer is not None:
            chosen = self.heads_by_layer
        else:
            layers = range(num_layers) if self.layers is None else self.layers
            heads = tuple(range(num_heads)) if self.heads is None else self.heads
            chosen = tuple((layer, heads) for layer in layers)
        table = torch.zeros(num_layers, num_heads)
        for layer, heads in chosen:
            _check_range("layers", layer, num_layers)
            for head in heads:
                _check_range("heads", head, num_heads)
                table[layer, head] = 1.0
        return table


def grouped_by_layer(heads: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    """Return pairs of a layer and a head as ``{layer: [head, ...]}``, as `Steering` takes them.

    Example:
        >>> grouped_by_layer([(2, 0), (0, 1), (2, 3)])
        {2: [0, 3], 0: [1]}

    """
    found: dict[int, list[int]] = {}
    for layer, head in heads:
        found.setdefault(layer, []).append(head)
    return found


def _log(name: str, value: float) -> float:
    """Return the nats that multiply a probability by a factor, before it is normalised."""
    number = as_float(value)
    if not math.isfinite(number) or number <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
    return math.log(number)


def _indices(name: str, values: Iterable[int] | None) -> tuple[int, ...] | None:
    if values is None:
        return None
    is_scalar = isinstance(values, Tensor) and values.dim() == 0
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable) or is_scalar:
        raise ValueError(
            f"{name} must be several whole numbers, such as [0, 1], or None for all, got {values!r}"
        )
    chosen = tuple(values)
    if not chosen:
        raise ValueError(f"{name} must name at least one, or be None for all, got none")
    return tuple(index_from_0(name, value) for value in chosen)


def index_from_0(name: str, value: object) -> int:
    """Return a whole number from 0 as an int; integers of numpy and torch will do.

    Raises:
        ValueError: If it is something else.

    """
    try:
        index = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        index = -1
    if isinstance(value, bool) or index < 0:
        raise ValueError(f"{name} must be whole numbers from 0, got {value!r}")
    return index


def _by_layer(heads: Mapping[int, Iterable[int]]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    if not isinstance(heads, Mapping):
        raise ValueError(f"heads must be {{layer: [head, ...]}}, or None for all, got {heads!r}")
    layers = _indices("layers", heads) or ()
    for layer, of_layer in heads.items():
        if of_layer is None:
            raise ValueError(
                f"heads must name the heads of every layer that they name, got None for {layer!r}; "
                "pass layers=[...] for all heads of some layers"
            )
    chosen = (_indices("heads", of_layer) or () for of_layer in heads.values())
    return tuple(zip(layers, chosen, strict=True))


def check_encoding(name: str, value: object) -> None:
    """Raise TypeError if an argument is not an `Encoding`."""
    if not isinstance(value, Encoding):
        raise TypeError(
            f"{name} must be an Encoding, got {type(value).__name__}; guide_ext.tokens.encode "
            "makes one"
        )


def _count(name: str, value: object) -> int:
    if not is_int(value) or value < 1:  # type: ignore[operator]
        raise ValueError(f"{name} must be a whole number from 1, got {value!r}")
    return value  # type: ignore[return-value]


def _check_range(name: str, index: int, size: int) -> None:
    if index >= size:
        raise ValueError(
            f"{name} must be below {size}, the number of {name} of this model, got {index}"
        )
