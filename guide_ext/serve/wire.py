# SPDX-License-Identifier: MIT
"""The JSON of answers, as OpenAI's API has it, with ``guide`` beside ``usage``."""

from __future__ import annotations

import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guide_ext.integration.answer_rows import Likely

LEAST = -9999.0  # OpenAI's logarithm of a probability of 0: JSON has no infinity
DONE = "data: [DONE]\n\n"


def event(data: dict[str, Any]) -> str:
    r"""Return one event of a stream.

    Example:
        >>> event({"text": "é"})
        'data: {"text":"\\u00e9"}\n\n'

    """
    # In ASCII: some clients take U+2028 and its like for the end of a line.
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return f"data: {text}\n\n"


def usage(prompt_tokens: int, answer_tokens: int) -> dict[str, int]:
    """Return how many tokens were read and written.

    Example:
        >>> usage(3, 4)["total_tokens"]
        7

    """
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": answer_tokens,
        "total_tokens": prompt_tokens + answer_tokens,
    }


@dataclass(frozen=True)
class Answer:
    """What has come of one answer.

    Attributes:
        index: Its number.
        text: Its text.
        likely: Its tokens, if probabilities were asked for.
        reason: Why it ended; None for a part of a stream.

    """

    index: int
    text: str
    likely: Sequence[Likely] | None = None
    reason: str | None = None


class Wire(ABC):
    """What the two kinds of answers have in common."""

    kind: str
    prefix: str

    def __init__(self, model: str, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def part(self, choices: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Return a part of a stream."""
        kind = {"object": self.kind_of_part, "choices": list(choices)}
        return {**self._head, **kind, **more}

    def whole(self, answers: Sequence[Answer], **more: Any) -> dict[str, Any]:
        """Return all answers of a request."""
        kind = {"object": self.kind, "choices": [self.choice(answer) for answer in answers]}
        return {**self._head, **kind, **more}

    @property
    def kind_of_part(self) -> str:
        """What parts of a stream are called."""
        return self.kind

    @abstractmethod
    def begin(self, index: int) -> dict[str, Any]:
        """Return the first part of an answer."""

    @abstractmethod
    def piece(self, answer: Answer) -> dict[str, Any]:
        """Return a piece of an answer."""

    @abstractmethod
    def end(self, index: int, reason: str) -> dict[str, Any]:
        """Return the end of an answer."""

    @abstractmethod
    def choice(self, answer: Answer) -> dict[str, Any]:
        """Return a whole answer."""

    def _shown(self, token: int) -> str:
        text: str = self._tokenizer.decode([token])
        return text


class ChatWire(Wire):
    """Answers of ``/v1/chat/completions``."""

    kind, prefix = "chat.completion", "chatcmpl"

    @property
    def kind_of_part(self) -> str:
        """What parts of a stream are called."""
        return "chat.completion.chunk"

    def begin(self, index: int) -> dict[str, Any]:
        """Return the first part of an answer."""
        return self._part(index, {"role": "assistant", "content": ""}, None, None)

    def piece(self, answer: Answer) -> dict[str, Any]:
        """Return a piece of an answer."""
        return self._part(answer.index, {"content": answer.text}, answer.likely, None)

    def end(self, index: int, reason: str) -> dict[str, Any]:
        """Return the end of an answer."""
        return self._part(index, {}, None, reason)

    def choice(self, answer: Answer) -> dict[str, Any]:
        """Return a whole answer."""
        return {
            "index": answer.index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": self._logprobs(answer.likely),
            "finish_reason": answer.reason,
        }

    def _part(
        self,
        index: int,
        delta: dict[str, Any],
        likely: Sequence[Likely] | None,
        reason: str | None,
    ) -> dict[str, Any]:
        logprobs = self._logprobs(likely)
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, likely: Sequence[Likely] | None) -> dict[str, Any] | None:
        if likely is None:
            return None
        return {
            "content": [
                {
                    **self._token(one.token, one.logprob),
                    "top_logprobs": [self._token(*other) for other in one.others],
                }
                for one in likely
            ],
            "refusal": None,
        }

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._shown(token)
        # Where a token is a part of a character, its text does not tell its bytes.
        known = None if "\ufffd" in text else list(text.encode("utf-8"))
        return {"token": text, "logprob": max(logprob, LEAST), "bytes": known}


class TextWire(Wire):
    """Answers of ``/v1/completions``."""

    kind, prefix = "text_completion", "cmpl"

    def __init__(self, model: str, tokenizer: Any) -> None:
        super().__init__(model, tokenizer)
        self._places: dict[int, int] = {}  # of each answer, where its next token begins

    def begin(self, index: int) -> dict[str, Any]:
        """Return the first part of an answer."""
        return self.choice(Answer(index, ""))

    def piece(self, answer: Answer) -> dict[str, Any]:
        """Return a piece of an answer."""
        return self.choice(answer)

    def end(self, index: int, reason: str) -> dict[str, Any]:
        """Return the end of an answer."""
        return self.choice(Answer(index, "", None, reason))

    def choice(self, answer: Answer) -> dict[str, Any]:
        """Return a whole answer."""
        return {
            "index": answer.index,
            "text": answer.text,
            "logprobs": self._logprobs(answer.index, answer.likely),
            "finish_reason": answer.reason,
        }

    def _logprobs(self, index: int, likely: Sequence[Likely] | None) -> dict[str, Any] | None:
        if likely is None:
            return None
        texts = [self._shown(one.token) for one in likely]
        offsets, place = [], self._places.get(index, 0)
        for text in texts:
            offsets.append(place)
            place += len(text)
        self._places[index] = place
        return {
            "tokens": texts,
            "token_logprobs": [max(one.logprob, LEAST) for one in likely],
            "top_logprobs": [self._by_text(one) for one in likely],
            "text_offset": offsets,
        }

    def _by_text(self, one: Likely) -> dict[str, float]:
        """Return the likeliest tokens by their texts; those of one text by their numbers."""
        found: dict[str, float] = {}
        for token, logprob in one.others:
            text = self._shown(token)
            found[f"token_id:{token}" if text in found else text] = max(logprob, LEAST)
        return found
