# SPDX-License-Identifier: MIT
"""transformers' pipelines: ``pipeline("guide-text-generation", ...)`` and ``"pay-attention"``.

Importing `guide_ext.integration` makes both tasks known to transformers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, TextGenerationPipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils.chat_template_utils import Chat

from guide_ext.integration.enable import enable
from guide_ext.integration.influence.measure import influence
from guide_ext.integration.inputs import encode
from guide_ext.integration.model.state import refuse_two_texts, table_size
from guide_ext.marking.chat import with_plain_text
from guide_ext.marking.spans import parse
from guide_ext.steering.steering import Steering

_STEERING = ("guide_bias", "guide_strength", "guide_share")
_SEED = "guide_seed"
_HOW = ("delta", "steering", "min_share")
_MEASURED = "influence"
# Arguments of text-generation that would tokenise, cut or pad the prompt behind the back of marks.
_REFUSED = {
    "prefix": "write it into the prompt",
    "truncation": "shorten the prompt",
    "padding": "batches are padded on the left",
    "max_length": "pass max_new_tokens",
    "handle_long_generation": "shorten the prompt",
    "add_special_tokens": "tags are read in text as the tokenizer encodes it by itself",
    "tokenizer_encode_kwargs": "pass what the chat template takes as tools or documents",
}
# What the authors' pipeline calls a measurement, and the form of Influence that it is here.
_METRICS = {"influence": "paper", "attention_rollout": "rollout", "authors": "authors"}


class GuidePipeline(TextGenerationPipeline):  # type: ignore[misc]
    """Text generation whose prompts may have tags.

    Everything else is as in ``pipeline("text-generation")``: texts and chats, lists and generators
    of them, ``batch_size``, the arguments of ``generate()``, streamers. Prompts come back without
    their tags.

    Args:
        *args: As for the pipeline of transformers.
        **kwargs: As for the pipeline of transformers, and here or in a call: ``delta``,
            ``steering``, ``min_share`` and ``trusted_roles``, as for `encode`.

    Raises:
        UnsupportedModelError: If the model cannot be steered exactly.
        TagError: In a call, if tags cannot be read.
        ValueError: If an argument would tokenise, cut or pad prompts in another way.

    Example:
        >>> from transformers import pipeline
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> answer = pipeline("guide-text-generation", model=model, tokenizer=tokenizer, delta=2.0)
        >>> prompt = [{"role": "user", "content": "<!!->Summarize in French<-!!>: The cat sleeps."}]
        >>> [found] = answer(prompt, max_new_tokens=8, do_sample=False)
        >>> [message["role"] for message in found["generated_text"]]
        ['user', 'assistant']
        >>> found["generated_text"][0]["content"]
        'Summarize in French: The cat sleeps.'

    """

    _measures = False  # whether marks of Influence are looked at

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        enable(self.model)
        refuse_two_texts(self.model, "a pipeline with tags")

    def _sanitize_parameters(
        self,
        delta: float | None = None,
        steering: Steering | None = None,
        min_share: float | None = None,
        trusted_roles: Collection[str] | None = None,
        **rest: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        for name, instead in _REFUSED.items():
            if rest.get(name) is not None:
                raise ValueError(
                    f"{name} must be left out of a pipeline whose prompts have tags, got "
                    f"{rest[name]!r}; {instead}"
                )
        before, during, after = super()._sanitize_parameters(**rest)
        own = {"delta": delta, "steering": steering, "min_share": min_share}
        if any(own[name] is not None for name in _HOW):
            # One of them in a call replaces another of the pipeline.
            before |= {name: own[name] for name in _HOW}
        if trusted_roles is not None:
            before["trusted_roles"] = trusted_roles
        return before, during, after

    def preprocess(
        self,
        prompt_text: str | Chat,
        delta: float | None = None,
        steering: Steering | None = None,
        min_share: float | None = None,
        trusted_roles: Collection[str] = ("system", "user"),
        tools: Any = None,
        documents: Any = None,
        continue_final_message: bool | None = None,
        **generate_kwargs: Any,  # transformers passes those of generate() to each of these methods
    ) -> dict[str, Any]:
        """Turn a prompt with tags into what `generate()` takes."""
        template: dict[str, Any] = {}
        if isinstance(prompt_text, Chat):
            messages = prompt_text.messages
            given = {"tools": tools, "documents": documents}
            template = {name: value for name, value in given.items() if value is not None}
            if continue_final_message is None:  # as transformers does it
                continue_final_message = messages[-1]["role"] == "assistant"
            if continue_final_message:
                template["continue_final_message"] = True
            prompt, shown = messages, Chat(with_plain_text(messages, trusted_roles))
        else:
            prompt, shown = prompt_text, parse(prompt_text).text
        inputs: dict[str, Any] = encode(
            self.model,
            self.tokenizer,
            [prompt],
            delta=delta,
            steering=steering,
            min_share=min_share,
            trusted_roles=trusted_roles,
            **template,
        )
        kept = {name: v.cpu() for name, v in inputs.items() if name != _SEED or self._measures}
        return {**kept, "prompt_text": shown}

    def _forward(self, model_inputs: dict[str, Any], **generate_kwargs: Any) -> Any:
        own = {name: model_inputs.pop(name) for name in _STEERING if name in model_inputs}
        return super()._forward(model_inputs, **own, **generate_kwargs)


class PayAttentionPipeline(GuidePipeline):
    """The pipeline of GUIDE's authors, by its arguments, without its faults; see docs/pipelines.md.

    Texts with tags become a message of the user where the tokenizer has a chat template. Prompts
    with ``<?->`` tags come back with their Influence.

    Args:
        *args: As for `GuidePipeline`.
        delta_mid: Δ of a level-2 mark, nats.
        metric: ``"influence"``, the paper's; ``"attention_rollout"``; ``"authors"``, what their
            package computes. Also an argument of a call.
        num_layers: The number of layers; it is known, and checked.
        **kwargs: As for `GuidePipeline`.

    Raises:
        ValueError: If there is no such metric, or the model has another number of layers.

    Example:
        >>> from transformers import pipeline
        >>> from guide_ext import integration as guide
        >>> model, tokenizer = guide.load_embedded()
        >>> pipe = pipeline("pay-attention", model=model, tokenizer=tokenizer, delta_mid=2.0)
        >>> [found] = pipe("<?->Summarize<-?>: The cat sleeps.", max_new_tokens=4, do_sample=False)
        >>> found["influence"].shape[:2]  # layers + 1, groups; then tokens of the prompt
        torch.Size([5, 1])

    """

    _measures = True

    def __init__(
        self,
        *args: Any,
        delta_mid: float = 1.0,
        metric: str = "influence",
        num_layers: int | None = None,
        **kwargs: Any,
    ) -> None:
        self._form = _form(metric)
        super().__init__(*args, delta=delta_mid, **kwargs)
        layers, _ = table_size(self.model)
        if num_layers not in (None, layers):
            raise ValueError(f"num_layers must be the model's {layers}, got {num_layers!r}")

    def _sanitize_parameters(
        self, *args: Any, metric: str | None = None, **rest: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        before, during, after = super()._sanitize_parameters(*args, **rest)
        if metric is not None:
            during = {**during, "form": _form(metric)}
        return before, during, after

    def preprocess(self, prompt_text: str | Chat, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Turn a prompt with tags into what `generate()` takes."""
        is_text = isinstance(prompt_text, str)
        if is_text and self.tokenizer.chat_template and parse(prompt_text).spans:
            prompt_text = Chat([{"role": "user", "content": prompt_text}])
        inputs = super().preprocess(prompt_text, *args, **kwargs)
        seed = inputs.get(_SEED, torch.zeros_like(inputs["input_ids"])[:, None])
        if seed.shape[1] > 1:
            raise ValueError(
                f"a prompt must have one group of <?-> tags, without a name, got {seed.shape[1]}; "
                "guide_ext.integration.influence() measures several"
            )
        # Tokens second: transformers pads that dimension in a batch.
        return {**inputs, _SEED: seed.float().transpose(1, 2)}

    def _forward(
        self, model_inputs: dict[str, Any], form: str | None = None, **generate_kwargs: Any
    ) -> Any:
        seed = model_inputs.pop(_SEED).transpose(1, 2)
        asked = seed.flatten(1).any(1)
        measured = None
        if asked.any():
            inputs = {name: v for name, v in model_inputs.items() if isinstance(v, Tensor)}
            form = form or self._form
            measured = influence(self.model, {**inputs, _SEED: seed}, form=form).values.cpu()
            shown = (inputs["attention_mask"].bool() & asked[:, None]).cpu()
            measured = measured.masked_fill(~shown[:, None, None], torch.nan)
        found = super()._forward(model_inputs, **generate_kwargs)
        return found if measured is None else {**found, _MEASURED: measured}

    def postprocess(self, model_outputs: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Turn tokens into text, and add what was measured."""
        rest = dict(model_outputs)
        measured = rest.pop(_MEASURED, None)
        records = super().postprocess(rest, *args, **kwargs)
        if measured is None:
            return records
        values = measured[0][..., ~measured[0].isnan().all(0).all(0)]  # without padding
        return [{**record, _MEASURED: values} for record in records] if values.numel() else records


def _form(metric: str) -> str:
    if metric not in _METRICS:
        raise ValueError(f"metric must be one of {', '.join(_METRICS)}, got {metric!r}")
    return _METRICS[metric]


for _task, _class in (
    ("guide-text-generation", GuidePipeline),
    ("pay-attention", PayAttentionPipeline),
):
    # Imported again (as after a reload), it must not warn.
    if _task not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            _task, pipeline_class=_class, pt_model=AutoModelForCausalLM, type="text"
        )
