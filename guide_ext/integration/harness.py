# SPDX-License-Identifier: MIT
"""A steered model for lm-evaluation-harness: tags in the prompts of its tasks act.

Importing this makes the model ``guide`` known to the harness; ``guide-ext harness`` does so and
then is the harness's own command.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lm_eval._cli import HarnessCLI
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import setup_logging
from torch import Tensor

from guide_ext.integration.enable import enable
from guide_ext.integration.inputs import pad_token_id
from guide_ext.integration.model.state import strength_size, table_size
from guide_ext.integration.packaged import resolved
from guide_ext.marking.spans import MarkedText, parse
from guide_ext.marking.tags import TagError
from guide_ext.marking.tokens import Encoding, encode_text
from guide_ext.steering.steering import Steering, grouped_by_layer

_MADE_BY = "guide: made by"  # a key beside those of the harness, which are hashes
_WITHOUT_AUTO = 16  # rows of a batch, if the harness is to find out how many fit


@register_model("guide")
class GuideLM(HFLM):  # type: ignore[misc]
    """A decoder of transformers under GUIDE.

    Prompts are what a task makes of its documents: the text, or the chat that the model's template
    renders. Tags in them act, wherever they stand. The text that is scored must have none.

    Args:
        pretrained: A checkpoint, as `load` takes it, or a loaded model.
        delta: Δ of a level-2 mark, nats. Marks that state their own keep it.
        layers: Steered layers, as ``0+3+7`` or a list; None for all.
        heads: A JSON file of [layer, head] pairs, as ``guide-ext study heads`` saves it.
        **kwargs: As for the harness's model ``hf``.

    Raises:
        UnsupportedModelError: If the model cannot be steered exactly.
        TagError: During a task, if tags cannot be read.
        ValueError: If both layers and heads are given; during a task, if no prompt of many has a
            tag, marked text would be cut off, or the text that is scored has tags.

    """

    def __init__(
        self,
        pretrained: Any,
        delta: float = 1.0,
        layers: str | int | Sequence[int] | None = None,
        heads: str | None = None,
        **kwargs: Any,
    ) -> None:
        self._steering = _steering(float(delta), layers, heads)
        self._made_by = _description(pretrained, kwargs.get("dtype"), self._steering)
        self._batch: dict[str, Tensor] = {}
        named = resolved(pretrained) if isinstance(pretrained, str) else pretrained
        super().__init__(named, **kwargs)
        if self.backend != "causal":
            raise ValueError(
                f"pretrained must be a decoder-only model, got one of the kind {self.backend!r}"
            )
        enable(self._model)
        self._strength = self._steering.strength(*table_size(self._model))
        if self._strength is not None:
            strength_size(self._model)  # raises where strengths cannot be given

    # What the harness calls.

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Take the harness's file of answers (``--use_cache``), if it is of this very model.

        The harness looks answers up by their prompts alone: those of another Δ would pass as ours.

        Raises:
            ValueError: If the file has answers of another model, or under another steering.

        """
        super().set_cache_hook(cache_hook)
        answers = cache_hook.dbdict
        if answers is None:
            return
        made_by = answers.get(_MADE_BY)
        if made_by is None and len(answers) == 0:
            answers[_MADE_BY] = self._made_by
        elif made_by != self._made_by:
            raise ValueError(
                f"use_cache must name a file of its own for each model and Δ, got one with answers "
                f"of {made_by or 'a model that is not named there'}, and this is {self._made_by}; "
                "name another file"
            )

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        """Tokenise text as the model reads it."""
        ids: list[int] = super().tok_encode(parse(string).text, *args, **kwargs)
        return ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokenise a prompt and what is scored as one text, as the harness does it without tags."""
        plain = parse(context).text
        kept = plain.rstrip()
        whole = super().tok_encode(plain + continuation)
        begin = len(super().tok_encode(kept)) if kept else 0
        return whole[:begin] or [self.prefix_token_id], whole[begin:]

    def tok_batch_encode(
        self,
        strings: Sequence[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Tokenise the prompts of a batch, and keep their bias for `_model_generate`."""
        encodings = [self._encoded(parse(text)) for text in strings]
        for encoding, text in zip(encodings, strings, strict=True):
            _refuse_cut(encoding, left_truncate_len, text)
        rows = [self._row(one.input_ids, self._steering.bias(one), left_truncate_len)
                for one in encodings]  # fmt: skip
        self._batch = self._padded(rows, padding_side)
        return self._batch["input_ids"], self._batch["attention_mask"]

    def _model_generate(self, context: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if context.shape != self._batch["input_ids"].shape:
            raise RuntimeError("generation must follow the encoding of its prompts")
        steering = {name: v for name, v in self._batch.items() if name.startswith("guide_")}
        output: Tensor = super()._model_generate(context, *args, **steering, **kwargs)
        return output

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Answer prompts."""
        self._check_marked(requests)
        answers: list[str] = super().generate_until(requests, disable_tqdm=disable_tqdm)
        return answers

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score answers to prompts."""
        self._check_marked(requests)
        for request in requests:
            if _has_tags(request.args[1]):
                raise ValueError(
                    f"the text that is scored must have no tags, got {request.args[1]!r}; "
                    "put them into the prompt"
                )
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Score whole texts, which have no prompt that could be marked."""
        for request in requests:
            if _has_tags(request.args[0]):
                raise ValueError(
                    "a text that is scored as a whole must have no tags, got some in one that "
                    f"begins with {request.args[0][:40]!r}"
                )
        found: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
        return found

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        size = override_bs or self.batch_size
        size = size if isinstance(size, int) and size > 0 else _WITHOUT_AUTO
        # The longest first: what does not fit into memory shows at once.
        order = sorted(range(len(requests)), key=lambda i: -sum(map(len, requests[i][1:])))
        found: dict[int, tuple[float, bool]] = {}
        for start in range(0, len(order), size):
            part = order[start : start + size]
            for index, score in zip(part, self._scores([requests[i] for i in part]), strict=True):
                found[index] = score
                if requests[index][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[index][0], score)
        return [found[index] for index in range(len(requests))]

    # How it is done.

    def _scores(
        self, requests: Sequence[tuple[Any, list[int], list[int]]]
    ) -> list[tuple[float, bool]]:
        """Score one batch: the log-likelihood of each answer, and whether it is the likeliest."""
        rows = []
        for texts, context, answer in requests:
            ids = [*context, *answer]
            bias = torch.zeros(len(ids)) if texts is None else self._bias_of_pair(texts, ids)
            kept = self.max_length + 1
            if bool(bias[:-kept].any()):
                raise ValueError(
                    f"marked text must be in the last {kept} tokens, which the model knows "
                    f"positions for, got a prompt of {len(ids)}"
                )
            # The last token is predicted, not read.
            rows.append((ids[-kept:][:-1], bias[-kept:][:-1]))
        inputs = self._padded(rows, "right")
        with torch.no_grad():
            logits = self.model(**inputs).logits
        scores = []
        for row, (_, _, answer) in enumerate(requests):
            end = len(rows[row][0])
            wanted = torch.tensor(answer, device=logits.device)
            given = F.log_softmax(logits[row, end - len(answer) : end].float(), dim=-1)
            chance = float(given.gather(1, wanted[:, None]).sum())
            scores.append((chance, bool((given.argmax(-1) == wanted).all())))
        return scores

    def _bias_of_pair(self, texts: tuple[str, str], ids: list[int]) -> Tensor:
        """Return the bias of a prompt and an answer, which are tokenised as one text."""
        context, answer = texts
        marked = parse(context)
        if not marked.text:
            return torch.zeros(len(ids))
        whole = MarkedText(marked.text + answer, marked.spans)
        encoding = self._encoded(whole)
        if list(encoding.input_ids) != ids:
            raise ValueError(
                "a prompt and its answer must have the same tokens as one text, got others in "
                f"{context[-40:]!r} + {answer!r}"
            )
        return self._steering.bias(encoding)

    def _encoded(self, marked: MarkedText) -> Encoding:
        """Tokenise text with the special tokens that the harness would add."""
        bare = super().tok_encode(marked.text)
        for adds in (False, True):
            encoding = encode_text(self.tokenizer, marked, add_special_tokens=adds)
            if list(encoding.input_ids) == bare:
                return encoding
        raise ValueError(
            "the tokenizer must give a text the same tokens with and without offsets, got others "
            f"for one that begins with {marked.text[:40]!r}"
        )

    def _row(
        self, ids: Sequence[int], bias: Tensor, length: int | None
    ) -> tuple[list[int], Tensor]:
        return (list(ids[-length:]), bias[-length:]) if length else (list(ids), bias)

    def _padded(
        self, rows: Sequence[tuple[list[int], Tensor]], padding_side: str
    ) -> dict[str, Tensor]:
        """Make a batch of rows of token ids and their bias."""
        most = max(len(ids) for ids, _ in rows)
        filler = pad_token_id(self.tokenizer)
        batch = {
            "input_ids": torch.full((len(rows), most), filler),
            "attention_mask": torch.zeros(len(rows), most, dtype=torch.long),
            "guide_bias": torch.zeros(len(rows), most),
        }
        for row, (ids, bias) in enumerate(rows):
            here = slice(most - len(ids), most) if padding_side == "left" else slice(len(ids))
            batch["input_ids"][row, here] = torch.tensor(ids)
            batch["attention_mask"][row, here] = 1
            batch["guide_bias"][row, here] = bias
        if self._strength is not None:
            batch["guide_strength"] = self._strength.expand(len(rows), -1, -1)
        return {name: values.to(self.device) for name, values in batch.items()}

    def _check_marked(self, requests: Any) -> None:
        """Refuse a task that has no tag anywhere: its results would be those of the plain model."""
        delta = self._steering.delta_mid
        prompts: dict[Any, list[str]] = {}
        for request in requests:
            prompts.setdefault(getattr(request, "task_name", None), []).append(request.args[0])
        for task, own in prompts.items():
            if delta != 0 and not any(parse(prompt).spans for prompt in own):
                raise ValueError(
                    f"delta must be 0 for a task whose prompts have no tags, got {delta:g} and "
                    f"{len(own)} prompts without in {task}; mark text in the task's doc_to_text "
                    "or description with <!!-> … <-!!>"
                )


def _has_tags(text: str) -> bool:
    try:
        return bool(parse(text).spans)
    except TagError:
        return True


def run_command(program: str, arguments: Sequence[str]) -> None:
    """Run the command of the harness, with the model ``guide``.

    Args:
        program: What the command is called.
        arguments: Its arguments.

    """
    before = sys.argv
    sys.argv = [program, *arguments]  # the harness reads them there
    try:
        setup_logging()
        command = HarnessCLI()
        command.execute(command.parse_args())
    finally:
        sys.argv = before


def _steering(
    delta: float, layers: str | int | Sequence[int] | None, heads: str | None
) -> Steering:
    """Return what marks mean, from the arguments of a command line."""
    if isinstance(layers, str):
        layers = [int(part) for part in layers.split("+")]
    chosen = [layers] if isinstance(layers, int) else layers
    if heads is None:
        return Steering.guide(delta, layers=chosen)
    if chosen is not None:
        raise ValueError("layers must be left out with heads, which name layers, too; got both")
    saved = json.loads(Path(heads).read_text(encoding="utf-8"))
    pairs = saved["heads"] if isinstance(saved, dict) else saved
    return Steering.guide(delta, heads=grouped_by_layer((layer, head) for layer, head in pairs))


def _description(pretrained: Any, dtype: Any, steering: Steering) -> str:
    """Return all that answers depend on, as a line."""
    name = pretrained if isinstance(pretrained, str) else pretrained.config.name_or_path
    return f"{name} (dtype {dtype or 'auto'}) under {steering}"


def _refuse_cut(encoding: Encoding, length: int | None, text: str) -> None:
    """Refuse to cut off tokens that are marked."""
    first = min((span.start for span in encoding.token_spans), default=None)
    if length is not None and first is not None and first < len(encoding.input_ids) - length:
        raise ValueError(
            f"marked text must be in the last {length} tokens of a prompt, which the model has "
            f"room for, got it {len(encoding.input_ids) - first} tokens before the end of one "
            f"that begins with {text[:40]!r}; shorten the prompt"
        )
