# SPDX-License-Identifier: MIT
"""SEKA's projections: directions of keys that belong to what a question asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guide_ext.support.values import as_float, is_int

_NONE = 1e-10  # share of the strongest singular value below which one is 0, in double precision
_TINY = 1e-300  # keeps heads without keys from dividing 0 by 0


@dataclass(frozen=True)
class KeyProjections:
    """Projections of keys, one for every layer and key-value head; zero where none was kept.

    Attributes:
        positive: On the directions that a relevant question strengthens, float32
            ``[layers, num_kv_heads, head_dim, head_dim]``.
        negative: On the directions that an irrelevant question leaves weak, of the same shape.
        shifts: How far keys lie apart under a relevant and an irrelevant question, mean L2 distance
            over tokens, ``[layers, num_kv_heads]``.
        vectors: All directions that `positive` chooses from, the strongest first, as columns:
            float32, of the shape of `positive`. Each points to where neutral keys lie on average.
            Zero where few tokens leave none: what a decomposition puts there is arbitrary.
        strengths: Their singular values, ``[layers, num_kv_heads, head_dim]``.

    """

    positive: Tensor
    negative: Tensor
    shifts: Tensor
    vectors: Tensor
    strengths: Tensor

    def edited(self, key: Tensor, layer: int, positive: float, negative: float = 0.0) -> Tensor:
        """Return keys with their parts in these directions strengthened.

        Args:
            key: Keys before their rotary position, ``[..., num_kv_heads, head_dim]``.
            layer: Their layer, counted from 0.
            positive: Gain g⁺; 0 for none.
            negative: Gain g⁻; 0 for none.

        Returns:
            ``key + g⁺ P⁺ key + g⁻ P⁻ key``, in the dtype of `key`.

        """
        moved = positive * self.positive[layer] + negative * self.negative[layer]
        found = key.float() + torch.einsum("...hd,hde->...he", key.float(), moved.to(key.device))
        return found.to(key.dtype)

    def of_heads(self, min_shift: float) -> KeyProjections:
        """Return the projections of those heads alone whose keys lie at least so far apart.

        Args:
            min_shift: Smallest of `shifts` that is kept.

        Raises:
            ValueError: If it is not a finite number.

        Example:
            >>> one = torch.eye(2)[None, None]
            >>> found = KeyProjections(one, one, torch.tensor([[0.2]]), one, torch.ones(1, 1, 2))
            >>> bool(found.of_heads(0.3).positive.any()), bool(found.of_heads(0.2).positive.any())
            (False, True)

        """
        if not math.isfinite(as_float(min_shift)):
            raise ValueError(f"min_shift must be a finite number, got {min_shift!r}")
        kept = (self.shifts >= min_shift).to(self.positive.dtype)
        whole = kept[..., None, None]
        return replace(
            self,
            positive=self.positive * whole,
            negative=self.negative * whole,
            vectors=self.vectors * whole,
            strengths=self.strengths * kept[..., None],
        )

    def save(self, path: str | Path) -> None:
        """Save them to a file that `load` reads.

        Args:
            path: The file; one that exists is replaced.

        Raises:
            OSError: If it cannot be written.

        """
        tensors = {field.name: getattr(self, field.name).cpu() for field in fields(self)}
        torch.save(tensors, path)

    @classmethod
    def load(cls, path: str | Path) -> KeyProjections:
        """Read what `save` wrote. Nothing but tensors is read, so the file can run no code.

        Args:
            path: The file.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it holds something else, or tensors of shapes that do not fit.

        Example:
            >>> import tempfile
            >>> one = torch.eye(2)[None, None]
            >>> found = KeyProjections(one, one, torch.ones(1, 1), one, torch.ones(1, 1, 2))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     found.save(f"{folder}/seka.pt")
            ...     bool((KeyProjections.load(f"{folder}/seka.pt").positive == one).all())
            True

        """
        try:
            read: Any = torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # of pickle, zip files and others
            raise ValueError(f"path must be a file of projections, got {path}: {error}") from error
        names = [field.name for field in fields(cls)]
        if (
            not isinstance(read, dict)
            or sorted(read) != sorted(names)
            or not all(isinstance(value, Tensor) for value in read.values())
        ):
            raise ValueError(
                f"path must be a file of projections with {', '.join(names)}, got other content "
                f"in {path}"
            )
        whole = read["positive"].shape
        if len(whole) != 4 or whole[2] != whole[3]:
            raise ValueError(
                "positive must be [layers, num_kv_heads, head_dim, head_dim], got "
                f"{list(whole)} in {path}"
            )
        shapes = {
            "negative": whole, "vectors": whole, "strengths": whole[:3], "shifts": whole[:2],
        }  # fmt: skip
        for name, shape in shapes.items():
            if read[name].shape != shape:
                raise ValueError(
                    f"{name} must be {list(shape)} as positive is, got {list(read[name].shape)} "
                    f"in {path}"
                )
        return cls(**{name: read[name].float() for name in names})


@dataclass(frozen=True)
class Mixture:
    """Several experts' projections, mixed for each prompt by how well a query fits them: AdaSEKA's.

    With the `top` strongest directions ``u`` of an expert and their singular values ``σ``, its fit
    is ``Σ (query · u) σ``, and its weight is that divided by the largest ``|fit|`` of all experts:
    the weight of the best is 1 or −1, and the length of the query does not matter. Heads that an
    expert dropped have weight 0.

    Attributes:
        experts: Projections of one model, each from pairs of another kind.
        top: How many directions of each expert count; all, if there are fewer.

    Raises:
        ValueError: If there are fewer than two experts, they are of different shapes, or `top` is
            no whole number from 1.

    Source:
        AdaSEKA (Li et al. 2026, arXiv:2603.01281) and its authors' code. Singular vectors have no
        sign of their own: there, they have that which the decomposition happens to return; here,
        they point to where neutral keys lie on average, so that a weight above 0 means that
        strengthened keys draw this query.

    Example:
        >>> eye, no = torch.eye(2)[None, None], torch.zeros(1, 1, 2, 2)
        >>> one = KeyProjections(eye, no, torch.ones(1, 1), eye, torch.tensor([[[2.0, 1.0]]]))
        >>> other = replace(one, vectors=eye.flip(-1))  # strongest where `one` is weak
        >>> mixture = Mixture((one, other), top=1)
        >>> weights = mixture.weights(torch.tensor([3.0, -1.0])[None, None, None])
        >>> weights.flatten()
        tensor([ 1.0000, -0.3333])
        >>> mixture.edited(torch.ones(1, 1, 1, 2), 0, weights[:, 0], gain=0.6).flatten()
        tensor([1.6000, 0.8000])

    """

    experts: tuple[KeyProjections, ...]
    top: int

    def __post_init__(self) -> None:
        """Check that the experts go together."""
        if len(self.experts) < 2:
            raise ValueError(f"experts must be two or more, got {len(self.experts)}")
        if not is_int(self.top) or self.top < 1:
            raise ValueError(f"top must be a whole number from 1, got {self.top!r}")
        shapes = [list(expert.vectors.shape) for expert in self.experts]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"experts must be of one model, got projections of shapes {shapes}")

    def weights(self, query: Tensor) -> Tensor:
        """Return the weight of every expert.

        Args:
            query: Queries before their rotary position, mean over the query heads of each key-value
                head, ``[layers, batch, num_kv_heads, head_dim]``.

        Returns:
            float32 ``[experts, layers, batch, num_kv_heads]``.

        """
        asked = query.double().cpu()
        fits = torch.stack(
            [
                (
                    torch.einsum("lbhd,lhdk->lbhk", asked, expert.vectors[..., : self.top].double())
                    * expert.strengths[:, None, :, : self.top]
                ).sum(-1)
                for expert in self.experts
            ]
        )
        return (fits / fits.abs().amax(0).clamp(min=_TINY)).float()

    def edited(self, key: Tensor, layer: int, weights: Tensor, gain: float) -> Tensor:
        """Return keys with their parts in the mixed directions strengthened.

        Args:
            key: Keys before their rotary position, ``[batch, tokens, num_kv_heads, head_dim]``.
            layer: Their layer, counted from 0.
            weights: Those of this layer, ``[experts, batch, num_kv_heads]``.
            gain: Gain g.

        Returns:
            ``key + g Σ weight · U Uᵀ key`` over the experts, with their `top` strongest directions
            as the columns of ``U``, in the dtype of `key`.

        """
        found = plain = key.float()
        for expert, own in zip(self.experts, weights.to(key.device), strict=True):
            vectors = expert.vectors[layer, ..., : self.top].to(key.device)
            inside = torch.einsum("bthd,hdk->bthk", plain, vectors) * own[:, None, :, None]
            found = found + gain * torch.einsum("bthk,hdk->bthd", inside, vectors)
        return found.to(key.dtype)


def fit_projections(
    neutral: Tensor,
    relevant: Tensor,
    irrelevant: Tensor,
    *,
    variance: float = 0.9,
    min_shift: float = 0.0,
) -> KeyProjections:
    """Find the directions of keys of the same tokens under three contexts.

    Args:
        neutral: Keys without a question, ``[layers, num_kv_heads, tokens, head_dim]``.
        relevant: Keys behind a question that these tokens answer, of the same shape.
        irrelevant: Keys behind another question, of the same shape.
        variance: Share of the singular values that the strong directions hold, above 0, up to 1.
        min_shift: Heads whose keys lie less apart than this get no projection.

    Returns:
        The projections: of the cross-covariance of neutral and relevant keys, onto its strongest
        left singular vectors; of that of neutral and irrelevant keys, onto all but the strongest.

    Raises:
        ValueError: If the shapes differ or are no such shapes, or `variance` is out of range.

    Source:
        SEKA (Li et al. 2026, arXiv:2603.01281) and its authors' code.

    Example:
        >>> keys = torch.eye(2)[None, None]
        >>> found = fit_projections(keys, keys * torch.tensor([3.0, 1.0]), keys, variance=0.7)
        >>> found.positive[0, 0]
        tensor([[1., 0.],
                [0., 0.]])

    """
    if not 0 < as_float(variance) <= 1:
        raise ValueError(f"variance must be above 0 and at most 1, got {variance!r}")
    if neutral.dim() != 4 or not neutral.shape == relevant.shape == irrelevant.shape:
        raise ValueError(
            "neutral, relevant and irrelevant must be keys of one shape, [layers, num_kv_heads, "
            f"tokens, head_dim], got {[list(t.shape) for t in (neutral, relevant, irrelevant)]}"
        )
    keys, tokens = neutral.double(), max(1, neutral.shape[2])
    shifts = (relevant.double() - irrelevant.double()).norm(dim=-1).mean(-1)
    vectors, values, _ = torch.linalg.svd(keys.mT @ relevant.double() / tokens)
    others, other_values, _ = torch.linalg.svd(keys.mT @ irrelevant.double() / tokens)
    weak = _onto_strongest(others, other_values, variance)
    rest = torch.eye(neutral.shape[-1], dtype=weak.dtype, device=weak.device) - weak
    towards = (keys.mean(2)[..., None, :] @ vectors).sign()  # ±1, or 0 where nothing tells
    vectors = torch.where(towards < 0, -vectors, vectors)
    vectors = vectors * (values > _NONE * values[..., :1])[..., None, :]
    return KeyProjections(
        _onto_strongest(vectors, values, variance).float(),
        rest.float(),
        shifts.float(),
        vectors.float(),
        values.float(),
    ).of_heads(min_shift)


def _onto_strongest(vectors: Tensor, values: Tensor, variance: float) -> Tensor:
    """Return projections onto the fewest left singular vectors that hold a share of the values."""
    whole = values.sum(-1, keepdim=True).clamp(min=_TINY)
    before = (values.cumsum(-1) - values) / whole
    chosen: Tensor = vectors * (before < variance - 1e-12)[..., None, :]
    return chosen @ chosen.mT
