# SPDX-License-Identifier: MIT
"""A Δ for each layer and head that was learned, and its file."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from guide_ext.steering.steering import Steering
from guide_ext.support.files import write_bytes

_FORMAT = "guide_ext learned delta 1"


@dataclass(frozen=True)
class LearnedDelta:
    """What `learn_delta` found.

    Likelihoods are means over the examples that were held out, of the logarithm of the probability
    of the right answer, in nats.

    Attributes:
        nats: Δ of a level-2 mark for each layer and head.
        by: What had a number of its own: ``"head"``, ``"layer"``, or ``"one"`` for all.
        start: The one Δ that the search began with, nats.
        plain: Likelihood without steering.
        at_start: Likelihood with `start` in every head.
        held_out: Likelihood with `nats`.
        learned_from: How many examples gave gradients.
        judged_by: How many examples were held out; they chose when to stop, so measure the result
            on others.
        rounds: How often all examples had been seen when `nats` were found; 0 if nothing was
            better than the start.
        model: A short name of the model's weights.

    """

    nats: tuple[tuple[float, ...], ...]
    by: str
    start: float
    plain: float
    at_start: float
    held_out: float
    learned_from: int
    judged_by: int
    rounds: int
    model: str

    def steering(self) -> Steering:
        """Return the steering that adds these nats to marked text."""
        return Steering.by_head(self.nats)

    def save(self, path: str | Path) -> None:
        """Write the table and all that is known of it, as safetensors; never half a file.

        Raises:
            OSError: If the file cannot be written.

        """
        about = {name: value for name, value in asdict(self).items() if name != "nats"}
        metadata = {"format": _FORMAT, "about": json.dumps(about)}
        table = torch.tensor(self.nats, dtype=torch.float64)  # so that it comes back as it was
        write_bytes(path, save({"nats": table}, metadata))

    @classmethod
    def load(cls, path: str | Path) -> LearnedDelta:
        """Read what `save` wrote.

        Raises:
            ValueError: If the file is of another kind, or a number in it is not finite.
            OSError: If it cannot be read.

        """
        with Path(path).open("rb"):  # safetensors has errors of its own for files that are not
            pass
        try:
            with safe_open(path, framework="pt") as file:
                metadata: dict[str, Any] = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise ValueError(f"its format is {metadata.get('format')!r}")
                table = file.get_tensor("nats")
                about = json.loads(metadata["about"])
            nats = Steering.by_head(table).table
            assert nats is not None
            found = cls(nats=nats, **about)
            if not all(math.isfinite(value) for value in (found.start, found.held_out)):
                raise ValueError("its likelihood is no number")
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ValueError(
                f"path must be a file that learn_delta() or 'guide-ext learn' saved, got "
                f"{str(path)!r}: {error}"
            ) from error
        return found
