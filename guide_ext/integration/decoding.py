# SPDX-License-Identifier: MIT
"""How answers are decoded: greedily or by plain sampling, whatever a checkpoint prefers.

A checkpoint's ``generation_config`` fills every option of ``generate()`` that a call leaves open.
Here, fields that describe the model's texts, such as the tokens that end one, keep their values.
Fields that would change how answers are chosen are reset. Every field is in one of the tables here.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from guide_ext.support.values import as_float, is_int

# Logits divided by less than this leave the range of float32.
_LOWEST_TEMPERATURE = 1e-4
# What torch.Generator.manual_seed takes.
_SEEDS = range(-(1 << 63), 1 << 64)

_IDLE = "does nothing without a second model or an n-gram lookup, which are reset"
KEPT = {
    "eos_token_id": "the model's own knowledge: which tokens end a text",
    "stop_strings": "the model's own knowledge: which words end a text",
    "pad_token_id": "the model's own knowledge: what follows the end",
    "bos_token_id": "the model's own knowledge: what a text begins with",
    "decoder_start_token_id": "the model's own knowledge: what a text of the decoder begins with",
    "bad_words_ids": "the model's own knowledge: which tokens may never come",
    "suppress_tokens": "the model's own knowledge: which tokens may never come",
    "begin_suppress_tokens": "the model's own knowledge: which tokens may never come first",
    "use_cache": "how the answer is computed, not which",
    "prefill_chunk_size": "how the answer is computed, not which",
    "compile_config": "how the answer is computed, not which",
    "disable_compile": "how the answer is computed, not which",
    "max_matching_ngram_size": _IDLE,
    "num_assistant_tokens": _IDLE,
    "num_assistant_tokens_schedule": _IDLE,
    "assistant_confidence_threshold": _IDLE,
    "assistant_lookbehind": _IDLE,
    "assistant_ensemble_weight": _IDLE,
    "target_lookbehind": _IDLE,
    "low_memory": "does nothing without contrastive search, which is reset",
    "_from_model_config": "where the configuration comes from",
    "transformers_version": "where the configuration comes from",
}
"""Fields that keep the value of a checkpoint's ``generation_config``, each with the reason."""

KEPT_BEHIND_AN_ENCODER = {
    "forced_bos_token_id": "the model's own knowledge: the first token of a text, or its language",
}
"""Fields of `RESET` that encoder–decoders keep, each with the reason."""

_ONE = "a prompt has one answer, a row of tokens"
_GREEDY = "greedy decoding takes the likeliest token and never changes it"
_LOGITS = "the logits are the model's own: no penalty, no bonus"
_SAMPLING = "sampling is by the model's own probabilities at the caller's temperature"
_LENGTH = "max_new_tokens alone says how long an answer may be"
_CACHE = "a rounded cache changes answers, one of a fixed size cuts them off"
RESET: dict[str, tuple[Any, str]] = {
    "num_return_sequences": (1, _ONE),
    "return_dict_in_generate": (False, _ONE),
    "output_scores": (False, _ONE),
    "output_logits": (False, _ONE),
    "output_attentions": (False, _ONE),
    "output_hidden_states": (False, _ONE),
    "num_beams": (1, _GREEDY),
    "num_beam_groups": (1, _GREEDY),
    "diversity_penalty": (0.0, _GREEDY),
    "length_penalty": (1.0, _GREEDY),
    "early_stopping": (False, _GREEDY),
    "constraints": (None, _GREEDY),
    "force_words_ids": (None, _GREEDY),
    "penalty_alpha": (None, _GREEDY),
    "dola_layers": (None, _GREEDY),
    "use_mtp": (None, _GREEDY),
    "is_assistant": (None, _GREEDY),
    "prompt_lookup_num_tokens": (None, _GREEDY),
    "assistant_early_exit": (None, _GREEDY),
    "speculation_type": (None, _GREEDY),
    "repetition_penalty": (1.0, _LOGITS),
    "encoder_repetition_penalty": (1.0, _LOGITS),
    "no_repeat_ngram_size": (0, _LOGITS),
    "encoder_no_repeat_ngram_size": (0, _LOGITS),
    "sequence_bias": (None, _LOGITS),
    "exponential_decay_length_penalty": (None, _LOGITS),
    "forced_bos_token_id": (None, _LOGITS),
    "forced_eos_token_id": (None, _LOGITS),
    "guidance_scale": (None, _LOGITS),
    "watermarking_config": (None, _LOGITS),
    "remove_invalid_values": (False, "NaN and inf are a fault that must show"),
    "token_healing": (False, "the model reads the prompt that was marked, token for token"),
    "temperature": (1.0, _SAMPLING),
    "top_k": (None, _SAMPLING),
    "top_p": (1.0, _SAMPLING),
    "min_p": (None, _SAMPLING),
    "top_h": (None, _SAMPLING),
    "typical_p": (1.0, _SAMPLING),
    "epsilon_cutoff": (0.0, _SAMPLING),
    "eta_cutoff": (0.0, _SAMPLING),
    "renormalize_logits": (None, _SAMPLING),
    "max_length": (None, _LENGTH),
    "min_length": (0, _LENGTH),
    "min_new_tokens": (None, _LENGTH),
    "max_time": (None, "the same prompt has the same answer on a busy machine"),
    "cache_implementation": (None, _CACHE),
    "cache_config": (None, _CACHE),
    "max_cache_len": (None, _CACHE),
    "continuous_batching_config": (None, "generate() has no use for it, and says so each time"),
}
"""Fields that are reset, each with its neutral value and the reason."""

STATED = {
    "do_sample": "off: `RowSampling` samples by noise that each row draws from its own seed",
    "max_new_tokens": "the caller's; less if the model knows too few positions",
}
"""Fields that every call sets."""


class RowSampling(LogitsProcessor):  # type: ignore[misc]
    """Sample by greedy decoding: add Gumbel noise, drawn for each row from its own seed.

    The index of the largest of ``logits / temperature + noise`` is distributed as the softmax of
    ``logits / temperature``, so greedy decoding with noise is multinomial sampling. `generate()`
    itself draws for a whole batch from torch's global generator; then an answer would depend on the
    other prompts of its batch, and on other threads.

    Args:
        seeds: One for each row.
        temperature: Above 0.

    Source:
        E. J. Gumbel (1954); C. Maddison et al., A* Sampling (NeurIPS 2014).

    Example:
        >>> first = RowSampling([5], 1.0)(torch.zeros(1, 1), torch.zeros(1, 4))
        >>> beside = RowSampling([7, 5], 1.0)(torch.zeros(2, 1), torch.zeros(2, 4))
        >>> torch.equal(first[0], beside[1])
        True

    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits with noise, ``[rows, vocabulary]``."""
        size = scores.shape[-1]
        drawn = [torch.empty(size).exponential_(generator=g) for g in self._generators]
        return scores.float() / self._temperature - torch.stack(drawn).log().to(scores.device)


class PromptSeeds:
    """Makes a seed for each prompt from the caller's seed and the tokens of the prompt.

    Other prompts and their order do not matter. Marks do not matter either, so that a plain and a
    guided answer are drawn with the same noise. If a prompt comes again with the same marks, it
    gets another seed each time.

    Args:
        seed: The caller's seed.

    Raises:
        ValueError: If it is not a whole number of 64 bits.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> inputs = guide.encode(model, tokenizer, ["the cat", "the dog sleeps", "the cat"])
        >>> cat, dog, again = PromptSeeds(7).of(inputs)
        >>> cat != again, PromptSeeds(7).of(guide.encode(model, tokenizer, "the cat")) == [cat]
        (True, True)

    """

    def __init__(self, seed: int) -> None:
        self._seed = check_seed(seed)
        self._seen: Counter[tuple[Any, ...]] = Counter()

    def of(self, inputs: Mapping[str, Tensor]) -> list[int]:
        """Return one seed for each row of a batch that `encode` made."""
        found = []
        for row, present in enumerate(inputs["attention_mask"].bool()):
            ids = tuple(inputs["input_ids"][row][present].tolist())
            marks = tuple(inputs["guide_bias"][row][present].tolist())
            self._seen[ids, marks] += 1
            text = f"{self._seed} {self._seen[ids, marks]} {ids}"
            digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
            found.append(int.from_bytes(digest, "little"))
        return found


def decoding_options(
    model: PreTrainedModel,
    tokens: int,
    max_new_tokens: int,
    temperature: float,
    *,
    seeds: Sequence[int] = (),
    tokenizer: Any = None,
    contrast: LogitsProcessor | None = None,
) -> dict[str, Any]:
    """Return the arguments of ``generate()`` for greedy decoding or plain sampling.

    Args:
        model: The model.
        tokens: Number of tokens in the prompt.
        max_new_tokens: Most tokens to write; fewer if the model knows too few positions.
        temperature: 0 for greedy decoding, else multinomial sampling at this temperature.
        seeds: For sampling, one seed per prompt.
        tokenizer: The model's tokenizer; needed if the checkpoint has ``stop_strings``.
        contrast: Changes the logits before noise is added to them.

    Raises:
        ValueError: If the temperature or the number of new tokens is out of range, the prompt
            leaves no position for an answer, the model is in training mode, or its
            ``generation_config`` has a field that is in none of the tables here, or has
            ``stop_strings`` without an ``eos_token_id``.

    Example:
        >>> from guide_ext import integration as guide
        >>> model, _ = guide.load_embedded()
        >>> model.generation_config.num_return_sequences = 2
        >>> config = decoding_options(model, 1020, 50, 0.0)["generation_config"]
        >>> config.num_return_sequences, config.max_new_tokens
        (1, 4)

    """
    check_temperature(temperature)
    if (
        isinstance(max_new_tokens, bool)
        or not isinstance(max_new_tokens, int)
        or max_new_tokens < 1
    ):
        raise ValueError(f"max_new_tokens must be a whole number from 1, got {max_new_tokens!r}")
    if model.training:
        raise ValueError(
            "model must be in evaluation mode, in which it answers a prompt in one way, got it in "
            "training mode; call model.eval()"
        )
    new_tokens = _new_tokens(model, tokens, max_new_tokens)
    config = _decided(model.generation_config, new_tokens, has_encoder=_has_encoder(model))
    how: dict[str, Any] = {"generation_config": config}
    processors = [] if contrast is None else [contrast]
    if temperature > 0:
        processors.append(RowSampling(seeds, temperature))
    if processors:
        how["logits_processor"] = LogitsProcessorList(processors)
    if config.stop_strings:
        if config.eos_token_id is None:  # generate() would not stop the rows of a batch one by one
            raise ValueError(
                "generation_config must have an eos_token_id beside its stop_strings, got None; "
                "set model.generation_config.eos_token_id"
            )
        how["tokenizer"] = tokenizer
    return how


class CompleteConfig(GenerationConfig):  # type: ignore[misc]
    """Complete settings: `generate()` adds nothing from the checkpoint's ``generation_config``."""

    def update(self, defaults_only: bool = False, **fields: Any) -> dict[str, Any]:
        """Update fields that a caller sets; ignore defaults."""
        found: dict[str, Any] = {} if defaults_only else super().update(**fields)
        return found


def _has_encoder(model: PreTrainedModel) -> bool:
    return bool(model.config.is_encoder_decoder)


def _decided(wishes: Any, max_new_tokens: int, *, has_encoder: bool) -> GenerationConfig:
    """Return the settings for an answer, given those of the checkpoint."""
    for name in sorted(set(vars(GenerationConfig())) - {*KEPT, *RESET, *STATED}):
        if getattr(wishes, name, None) is not None:
            raise ValueError(
                f"generation_config must have no field that guide_ext does not know, got {name}; "
                f"set model.generation_config.{name} = None, or call generate() yourself"
            )
    own = {**KEPT, **(KEPT_BEHIND_AN_ENCODER if has_encoder else {})}
    kept = {name: getattr(wishes, name, None) for name in own}
    return CompleteConfig(
        **GenerationConfig._get_default_generation_params()
        | {name: value for name, (value, _) in RESET.items()}
        | {name: value for name, value in kept.items() if value is not None}
        | {"do_sample": False, "max_new_tokens": max_new_tokens}
    )


def check_seed(seed: int) -> int:
    """Return the seed.

    Raises:
        ValueError: If it is not a whole number of 64 bits.

    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed not in _SEEDS:
        raise ValueError(f"seed must be a whole number of 64 bits, got {seed!r}")
    return seed


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global random state inside a ``with`` block, and restore it afterwards.

    This is for training, which draws from the global state. Threads share that state; answers have
    generators of their own, see `complete`.

    Raises:
        ValueError: If the seed is not a whole number of 64 bits.

    Example:
        >>> with seeded(3):
        ...     first = torch.rand(2)
        >>> with seeded(3):
        ...     torch.equal(first, torch.rand(2))
        True

    """
    check_seed(seed)
    # fork_rng warns unless the devices are given.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def check_temperature(temperature: float) -> None:
    """Check a temperature.

    Raises:
        ValueError: If it is neither 0 nor a finite number that logits can be divided by.

    """
    number = as_float(temperature)  # NaN if it is not a number
    if not (number == 0 or _LOWEST_TEMPERATURE <= number < math.inf):
        msg = (
            f"temperature must be 0 (greedy) or a finite number from {_LOWEST_TEMPERATURE}, "
            f"got {temperature!r}"
        )
        raise ValueError(msg)


def first_new(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> int:
    """Return with how many tokens the rows begin that ``generate()`` returns for these prompts.

    Those of the prompt; in an encoder–decoder, the one that every text begins with.
    """
    if not _has_encoder(model):
        return inputs["input_ids"].shape[1]
    return 1


def has_room(model: PreTrainedModel, tokens: int, wanted: int) -> bool:
    """Return whether the model has positions for a prompt of `tokens` and `wanted` new tokens."""
    return is_int(wanted) and _new_tokens(model, tokens, wanted) == wanted


def _new_tokens(model: PreTrainedModel, tokens: int, wanted: int) -> int:
    """Return how many tokens fit after the prompt, at most `wanted`; raise ValueError if none."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return wanted
    if tokens >= positions:
        raise ValueError(
            f"prompts must have fewer tokens than the {positions} positions that the model knows, "
            f"got {tokens}; shorten the prompt"
        )
    return min(wanted, positions - tokens)
