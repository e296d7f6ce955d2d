# SPDX-License-Identifier: MIT
"""Batches for training a steered model with transformers' Trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guide_ext.integration.call.arguments import DECODER_BIAS
from guide_ext.integration.inputs import pad_token_id
from guide_ext.integration.model.state import is_enabled, state_of

_IGNORED = -100  # a label that no loss of transformers or torch counts
# Columns that are padded, and with what. Token ids and the attention mask are padded, too.
_PADDING = {"labels": _IGNORED, "guide_bias": 0.0, "guide_share": 0.0, DECODER_BIAS: 0.0}
_STEERED = ("guide_bias", "guide_share", DECODER_BIAS)
_OF_PROMPT = ("input_ids", "attention_mask", "labels", "guide_bias", "guide_share")
_OF_SOURCE = ("input_ids", "attention_mask", "guide_bias")
_OF_TARGET = ("labels", DECODER_BIAS)


class SteeringCollator:
    """Pads examples with ``guide_bias`` into a batch, and raises an error if the bias got lost.

    The collators of transformers cannot pad this column. Trainer passes a collator only the columns
    that the model's `forward` names; without ``guide_bias`` among them, the model would be trained
    unsteered.

    Args:
        model: The enabled model that is trained, or a wrapper of it: peft's, `torch.compile`'s,
            `DataParallel`, `DistributedDataParallel`.
        tokenizer: Its tokenizer; gives the token of padding, and the side for models with one text.
            Both texts of an encoder–decoder are padded on the right.

    Raises:
        ValueError: If the model is not enabled.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> collate = guide.SteeringCollator(model, tokenizer)
        >>> long = {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "guide_bias": [2.0, 0.0, 0.0]}
        >>> short = {"input_ids": [8, 9], "labels": [-100, 9], "guide_bias": [0.0, 2.0]}
        >>> batch = collate([long, short])
        >>> batch["guide_bias"].tolist(), batch["attention_mask"].tolist()
        ([[2.0, 0.0, 0.0], [0.0, 0.0, 2.0]], [[1, 1, 1], [0, 1, 1]])

    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = _inner(model)
        self._padding_side: str = tokenizer.padding_side
        self._padding_token = pad_token_id(tokenizer)
        self._check_model()
        has_encoder = state_of(self._model).findings.has_encoder
        # Columns of one text have as many numbers, the first of them the tokens.
        self._texts = (_OF_SOURCE, _OF_TARGET) if has_encoder else (_OF_PROMPT,)
        if has_encoder:
            self._padding_side = "right"

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the model, so that processes that load data do not get its weights."""
        return {**self.__dict__, "_model": None}

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Make a batch.

        Args:
            features: Examples, all with the same columns. Each has ``input_ids``, and
                ``guide_bias`` or ``guide_share`` or both; it may have ``labels`` and
                ``attention_mask``. All of these hold one number per token. It may also have
                ``guide_strength``, ``[layers, heads]``. For an encoder–decoder, each has
                ``input_ids`` and ``labels``, and ``guide_bias`` of the one or
                ``guide_decoder_bias`` of the other or both.

        Returns:
            ``input_ids`` and ``attention_mask``, int64 ``[batch, tokens]``, and the other columns
            of the examples: ``labels``, int64 ``[batch, tokens]``; ``guide_bias`` and
            ``guide_share`` (and ``guide_decoder_bias``), float32 ``[batch, tokens]``, 0 on padding;
            ``guide_strength``, float32 ``[batch, layers, heads]``.

        Raises:
            ValueError: If there is no example, the model was disabled, or a column is missing,
                unknown or has another length than ``input_ids``.

        """
        self._check_model()
        if not features:
            raise ValueError("features must be at least one, got none")
        first = features[0] if isinstance(features[0], Mapping) else {}
        columns = [name for name in first if first[name] is not None]
        for row, feature in enumerate(features):
            self._check(row, feature, columns)
        if "attention_mask" not in columns:
            features = [{**f, "attention_mask": [1] * len(f["input_ids"])} for f in features]
        padding = {"input_ids": self._padding_token, "attention_mask": 0, **_PADDING}
        batch = {
            name: self._padded(features, name, padding[name])
            for text in self._texts
            for name in text
            if features[0].get(name) is not None
        }
        if "guide_strength" in columns:
            tables = [torch.as_tensor(feature["guide_strength"]) for feature in features]
            batch["guide_strength"] = torch.stack(tables).float()
        return batch

    def _check_model(self) -> None:
        if self._model is not None and not is_enabled(self._model):
            raise ValueError(
                f"model must be enabled, got a {type(self._model).__name__} that is not, and would "
                "train unsteered; call guide_ext.integration.enable(model) first"
            )

    def _check(self, row: int, feature: Mapping[str, Any], columns: list[str]) -> None:
        if not isinstance(feature, Mapping):
            raise ValueError(
                "features must be examples, mappings from column to values, got "
                f"{type(feature).__name__} in row {row} of the batch"
            )
        given = [name for name in feature if feature[name] is not None]
        known = [*(name for text in self._texts for name in text), "guide_strength"]
        tokens = [text[0] for text in self._texts]
        steering = [name for name in known if name in _STEERED]
        if not set(tokens) <= set(given) or not set(steering) & set(given):
            raise ValueError(
                f"features must have {' and '.join(tokens)} and {' or '.join(steering)}, got "
                f"{', '.join(given) or 'nothing'} in row {row} of the batch; Trainer drops columns "
                "that forward does not name: make it after guide_ext.integration.enable(model)"
            )
        unknown = [name for name in given if name not in known]
        if unknown or set(given) != set(columns):
            raise ValueError(
                f"features must all have the same columns, out of {', '.join(known)}, got "
                f"{', '.join(given)} in row {row} of the batch, {', '.join(columns)} in its first"
            )
        for text in self._texts:
            self._check_text(row, feature, text)

    def _check_text(self, row: int, feature: Mapping[str, Any], text: tuple[str, ...]) -> None:
        """Check that the columns of one text have as many numbers as it has tokens."""
        first, *others = text
        tokens = len(feature[first])
        shape = list(torch.as_tensor(feature[first]).shape)
        if len(shape) != 1:
            raise ValueError(
                f"{first} must be the tokens of one example, without a batch dimension, got shape "
                f"{shape} in row {row} of the batch; take row 0 of what "
                "guide_ext.integration.encode() returns"
            )
        for name in others:
            if feature.get(name) is not None and len(feature[name]) != tokens:
                raise ValueError(
                    f"{name} must have one number for each of the {tokens} tokens of {first}, "
                    f"got {len(feature[name])} in row {row} of the batch; put 0 where nothing is "
                    "marked"
                )

    def _padded(self, features: Sequence[Mapping[str, Any]], name: str, filler: float) -> Tensor:
        most = max(len(feature[name]) for feature in features)
        dtype = torch.float32 if name in _STEERED else torch.int64
        table = torch.full((len(features), most), filler, dtype=dtype)
        for row, feature in enumerate(features):
            values = torch.as_tensor(feature[name], dtype=dtype)
            here = slice(most - len(values), most)
            table[row, here if self._padding_side == "left" else slice(len(values))] = values
        return table


def _inner(model: Any) -> Any:
    """Return the enabled model inside any wrappers."""
    while not is_enabled(model):
        inner = getattr(model, "_orig_mod", getattr(model, "module", None))
        if inner is None and hasattr(model, "get_base_model"):
            inner = model.get_base_model()
        if inner is None or inner is model:
            return model
        model = inner
    return model
