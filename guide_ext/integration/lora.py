# SPDX-License-Identifier: MIT
"""Low-rank adapters (LoRA) by the library peft: attach, train on packed samples, save, merge.

peft is imported on use, because only code that trains or loads adapters needs it.
"""

from __future__ import annotations

import copy
import inspect
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from guide_ext.integration.decoding import seeded
from guide_ext.integration.enable import enable
from guide_ext.integration.loading import load
from guide_ext.integration.model.verify import UnsupportedModelError
from guide_ext.support.extras import check_installed

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"

_SAMPLE = 6  # tokens of each sample of the check
# Exchanged tokens may change the logits of another sample by at most this fraction of the change in
# their own sample. Where samples are kept apart, not a bit changes; attention of new weights can be
# so weak that a leak is 4e-3 (OpenAI GPT).
_LARGEST_LEAK = 1e-5


def attach_adapter(
    model: PreTrainedModel, *, rank: int, alpha: float, dropout: float, seed: int
) -> Any:
    """Freeze a model and put an adapter on every linear module but the output head.

    A weight ``W`` becomes ``W + alpha / rank · B A``. ``B`` starts at zero, so at first the adapted
    model computes the same as the model itself.

    Args:
        model: A model that is not enabled; it is changed in place.
        rank: Number of rows of ``A`` and of columns of ``B``.
        alpha: Scale of the adapter, relative to the rank.
        dropout: Share of the inputs of ``A`` that is dropped in training, in [0, 1).
        seed: Seed of the initial values of ``A``.

    Returns:
        peft's model, ready for training; the adapter's weights are float32.

    Raises:
        ImportError: If peft is not installed.

    Example:
        >>> from guide_ext import integration as guide
        >>> from guide_ext.embedded import model_path
        >>> model, _ = guide.load(str(model_path()), device="cpu", steerable=False)
        >>> adapted = attach_adapter(model, rank=2, alpha=4, dropout=0.0, seed=0)
        >>> adapted.get_nb_trainable_parameters()[0]
        18688

    """
    peft = _peft()
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
    with seeded(seed):
        return peft.get_peft_model(model, config).train()


def save_adapter(adapted: Any, folder: Path) -> None:
    """Write the adapter of a model into a folder that exists, in peft's own format.

    Args:
        adapted: A model that :func:`attach_adapter` returned.
        folder: Gets ``adapter_model.safetensors`` and ``adapter_config.json``.

    """
    weights = _peft().get_peft_model_state_dict(adapted, save_embedding_layers=False)
    save_file({name: w.detach().cpu().contiguous() for name, w in weights.items()},
              folder / WEIGHTS_FILE)  # fmt: skip
    config = copy.copy(adapted.peft_config["default"])
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # a set: its order is chance
    config.save_pretrained(folder)


def read_adapter(adapted: Any, folder: Path) -> None:
    """Load weights that :func:`save_adapter` wrote into a model of :func:`attach_adapter`."""
    _peft().set_peft_model_state_dict(adapted, load_file(folder / WEIGHTS_FILE))


def load_adapted(
    name: str,
    path: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    device: str | None = None,
    steerable: bool = True,
) -> tuple[PreTrainedModel, Any]:
    """Load a model, merge an adapter into its weights and prepare it for steering.

    Args:
        name: The model that the adapter was trained on: a local folder or a hub id.
        path: Folder of the adapter.
        dtype: As for :func:`guide_ext.integration.load`.
        device: As for :func:`guide_ext.integration.load`.
        steerable: False leaves the merged model without steering.

    Returns:
        The model, in evaluation mode, enabled where ``steerable``; the tokenizer, padding left.

    Raises:
        ImportError: If peft is not installed.
        FileNotFoundError: If there is no adapter in the folder.
        ValueError: If the adapter belongs to another model, or as in ``load``.
        OSError: If the model cannot be found or read.

    Example:
        >>> load_adapted("some/model", "nowhere")
        Traceback (most recent call last):
        ...
        FileNotFoundError: an adapter must be in nowhere, got no adapter_config.json there

    """
    folder = Path(path)
    if not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"an adapter must be in {folder}, got no {CONFIG_FILE} there")
    peft = _peft()
    base, tokenizer = load(name, dtype=dtype, device=device, steerable=False)
    try:
        adapted = peft.PeftModel.from_pretrained(base, str(folder))
    except (RuntimeError, ValueError) as error:  # sizes differ; no such modules
        reason = str(error).strip().split("\n")[-1].strip()
        raise ValueError(
            f"the adapter in {folder} must be one of {name}, got one that does not fit: {reason}"
        ) from error
    model = adapted.merge_and_unload().eval()
    return (enable(model) if steerable else model), tokenizer


def packed_logits(adapted: Any, input_ids: Tensor, position_ids: Tensor, columns: Tensor) -> Tensor:
    """Run several samples in one row, with attention only inside each sample.

    transformers recognises the samples by positions that start again at 0, and makes the mask
    block-diagonal. :func:`check_packing` checks that a model does so.

    Args:
        adapted: A model of transformers, or peft's wrapper of one.
        input_ids: Samples one after another, int64 ``[tokens]``.
        position_ids: Position of each token in its own sample, int64 ``[tokens]``.
        columns: Indices of the tokens whose logits are wanted, int64 ``[kept]``. If the model
            supports it, the output head runs on these tokens only; on all tokens of a long row it
            would cost most.

    Returns:
        Logits, ``[kept, vocab_size]``, in the dtype of the model.

    """
    inner = adapted.get_base_model() if hasattr(adapted, "get_base_model") else adapted
    takes_columns = "logits_to_keep" in inspect.signature(inner.forward).parameters
    kept = {"logits_to_keep": columns} if takes_columns else {}
    logits: Tensor = adapted(
        input_ids=input_ids[None], position_ids=position_ids[None], use_cache=False, **kept
    ).logits[0]
    return logits if takes_columns else logits[columns]


def check_packing(model: nn.Module) -> None:
    """Refuse a model in which packed samples see each other.

    Two samples share a row. The first one is replaced, and the logits of the second must not
    change.

    Args:
        model: A model of transformers, or peft's wrapper of one. Its mode is left as it was.

    Raises:
        UnsupportedModelError: If the logits change.

    Example:
        >>> from guide_ext import integration as guide
        >>> check_packing(guide.load_embedded()[0])

    """
    device = model.get_input_embeddings().weight.device  # type: ignore[operator, union-attr]
    samples = torch.arange(3 * _SAMPLE, device=device).reshape(3, _SAMPLE) + 1
    positions = torch.arange(_SAMPLE, device=device).repeat(2)
    columns = torch.arange(2 * _SAMPLE, device=device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            one, other = (
                packed_logits(model, torch.cat((first, samples[2])), positions, columns).float()
                for first in samples[:2]
            )
    finally:
        model.train(was_training)
    changes = (one - other).abs().reshape(2, _SAMPLE, -1).amax((1, 2))
    if not changes[1] <= _LARGEST_LEAK * changes[0]:
        raise UnsupportedModelError(
            f"{type(model).__name__} must keep samples that share a row apart to be trained on "
            "packed samples, got attention between them"
        )


def _peft() -> Any:
    check_installed("peft", "to fine-tune")
    import peft

    return peft
