# SPDX-License-Identifier: MIT
"""What a request may hold. A field that would do nothing is refused by its name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from guide_ext.integration.decoding import check_temperature

# Fields of OpenAI's API that change nothing here at these values, and what others would ask for.
# They are sent by clients that fill in every field.
NEUTRAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "frequency_penalty": ((0,), "the logits are the model's own: no penalty"),
    "presence_penalty": ((0,), "the logits are the model's own: no penalty"),
    "logit_bias": (({},), "the logits are the model's own"),
    "response_format": (
        ({"type": "text"},),
        "answers are text; ask for JSON in the prompt, and mark that sentence",
    ),
    "tools": (([],), "tools are not called; describe them in the prompt"),
    "tool_choice": (("none", "auto"), "tools are not called"),
    "parallel_tool_calls": ((True, False), "tools are not called"),
    "top_k": ((-1, 0), "sampling is from all tokens, or by top_p"),
    "min_p": ((0,), "sampling is from all tokens, or by top_p"),
    "repetition_penalty": ((1,), "the logits are the model's own: no penalty"),
    "functions": (([],), "functions are not called"),
    "function_call": (("none",), "functions are not called"),
    "modalities": ((["text"],), "answers are text"),
    "audio": ((), "answers are text"),
    "store": ((False,), "nothing is stored"),
    "metadata": (({},), "nothing is stored"),
    "reasoning_effort": ((), "a chat template decides what a model thinks first"),
    "prediction": ((), "answers are written by the model alone"),
    "service_tier": (("auto", "default"), "there is one tier"),
    "best_of": ((1,), "every answer is returned; use n"),
    "echo": ((False,), "the prompt is not repeated"),
    "suffix": (("",), "answers go at the end of a prompt"),
}
Text = Annotated[str, Field(max_length=1 << 20)]
Nats = Annotated[float, Field(allow_inf_nan=False)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _as_if_left_out(cls, data: Any) -> Any:
        """Drop fields that are null, and those of `NEUTRAL` with a value that changes nothing."""
        if not isinstance(data, dict):
            return data
        kept: dict[str, Any] = {}
        for name, value in data.items():
            if value is None:
                if name not in cls.model_fields and name not in NEUTRAL:
                    kept[name] = value  # refused as unknown
                continue
            if name in NEUTRAL and name not in cls.model_fields:
                values, reason = NEUTRAL[name]
                if not any(value == one and type(value) in _kinds(one) for one in values):
                    raise PydanticCustomError(
                        "unsupported_parameter",
                        "{field} must be left out: {reason}",
                        {"field": name, "reason": reason},
                    )
                continue
            kept[name] = value
        return kept


def _kinds(one: object) -> tuple[type, ...]:
    return (int, float) if isinstance(one, int) and not isinstance(one, bool) else (type(one),)


class SpanOfText(_Body):
    """A range of characters of a message, marked without tags."""

    message: int = Field(0, ge=0, description="Which message, from 0.")
    start: int = Field(ge=0, description="First character, in code points.")
    end: int = Field(ge=1, description="One past the last character.")
    level: Literal[1, 2, 3] | None = Field(None, description="As many ! as in the tag.")
    delta: Nats | None = Field(None, description="Nats, instead of a level.")

    @model_validator(mode="after")
    def _checked(self) -> SpanOfText:
        if self.start >= self.end:
            raise ValueError(f"end must be above start, {self.start}, got {self.end}")
        if self.level is not None and self.delta is not None:
            raise ValueError("level and delta say the same; give one of them")
        return self


class GuideOptions(_Body):
    """How a request is steered."""

    enabled: bool = Field(True, description="False: tags are removed, and nothing is steered.")
    delta: Nats | None = Field(None, description="Δ of a level-2 mark, nats.")
    min_share: float | None = Field(
        None, ge=0, lt=1, allow_inf_nan=False,
        description="Instead of delta: the least share of the attention that the marks get "
        "together. All marks count alike, whatever level or Δ they state.",
    )  # fmt: skip
    layers: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=1, max_length=1024, description="Steered layers; all if left out."
    )
    trusted_roles: list[str] | None = Field(
        None, max_length=16, description="Roles whose tags act; not more than the server's."
    )
    untrusted_tags: Literal["error", "literal"] = Field(
        "error", description="What to do about tags in other roles."
    )
    spans: list[SpanOfText] | None = Field(
        None, max_length=4096, description="Marks by range; tags are then plain text everywhere."
    )

    @model_validator(mode="after")
    def _checked(self) -> GuideOptions:
        if self.min_share is not None and (self.delta is not None or self.layers is not None):
            raise ValueError("min_share must come without delta and layers")
        return self


class TextPart(_Body):
    """A part of a message."""

    type: Literal["text"]
    text: Text
    literal: bool = Field(False, description="True: text from others; its tags are plain text.")


class Message(_Body):
    """A message of a chat."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: Text | list[TextPart]
    name: Annotated[str, Field(max_length=64)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_it_was_answered(cls, data: Any) -> Any:
        """Take an answer of ours, or of OpenAI's, back: fields without a value mean nothing."""
        if not isinstance(data, dict):
            return data
        empty = ("tool_calls", "annotations")
        return {
            name: value
            for name, value in data.items()
            if name == "content" or not (value is None or (name in empty and value == []))
        }

    @field_validator("content", mode="before")
    @classmethod
    def _text_alone(cls, content: Any) -> Any:
        if content is None:
            raise ValueError("must be text; calls of tools are not supported")
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type", "text") != "text":
                raise ValueError(f"must have parts of the type text, got {part['type']!r}")
        return content


class _Sampling(_Body):
    model: str
    temperature: float = Field(1.0, ge=0, le=100, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    n: int = Field(1, ge=1, le=8)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: dict[str, bool] | None = None
    user: str | None = Field(None, description="Accepted from clients that send it, and not used.")
    guide: GuideOptions = Field(default_factory=lambda: GuideOptions.model_validate({}))

    @field_validator("temperature")
    @classmethod
    def _divides(cls, temperature: float) -> float:
        check_temperature(temperature)
        return temperature

    @field_validator("stop")
    @classmethod
    def _stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        stops = [stop] if isinstance(stop, str) else stop or []
        if len(stops) > 8 or not all(0 < len(one) <= 256 for one in stops):
            raise ValueError("must be at most 8 texts of 1 to 256 characters")
        return stop

    @field_validator("stream_options")
    @classmethod
    def _options(cls, options: dict[str, bool] | None) -> dict[str, bool] | None:
        further = {name for name, value in (options or {}).items() if value} - {"include_usage"}
        if further:
            # As Python writes them: pydantic's errors cannot hold what UTF-8 cannot.
            names = ", ".join(map(repr, sorted(further)))
            raise ValueError(f"must have include_usage alone, got {names}")
        return options

    @model_validator(mode="after")
    def _streamed(self) -> _Sampling:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options must come with stream")
        return self

    def stops(self) -> tuple[str, ...]:
        """Return the texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def wants_usage(self) -> bool:
        """Return whether the end of a stream is to count the tokens."""
        return bool((self.stream_options or {}).get("include_usage"))


class ChatRequest(_Sampling):
    """``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=1024)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        one, other = self.max_tokens, self.max_completion_tokens
        if one is not None and other is not None and one != other:
            raise ValueError("max_tokens and max_completion_tokens mean the same; give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs must come with logprobs")
        return self

    def longest(self) -> int | None:
        """Return how many tokens an answer may have; None if the request does not say."""
        return self.max_tokens if self.max_tokens is not None else self.max_completion_tokens

    def num_logprobs(self) -> int | None:
        """Return how many likely tokens are wanted beside each; None for no probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(_Sampling):
    """``POST /v1/completions``."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=16)]
    max_tokens: int | None = Field(None, ge=1)
    logprobs: int | None = Field(None, ge=0, le=5)

    @model_validator(mode="after")
    def _ranges_of_one(self) -> CompletionRequest:
        if self.guide.spans is not None and not isinstance(self.prompt, str):
            raise ValueError("guide.spans must come with one prompt")
        return self

    def prompts(self) -> list[str]:
        """Return all prompts."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    def longest(self) -> int | None:
        """Return how many tokens an answer may have; OpenAI's default is 16."""
        return 16 if self.max_tokens is None else self.max_tokens

    def num_logprobs(self) -> int | None:
        """Return how many likely tokens are wanted beside each; None for no probabilities."""
        return self.logprobs


class PromptRequest(_Body):
    """A prompt alone: a chat or a text."""

    model: str
    messages: list[Message] | None = Field(None, min_length=1, max_length=1024)
    prompt: Text | None = None
    guide: GuideOptions = Field(default_factory=lambda: GuideOptions.model_validate({}))

    @model_validator(mode="after")
    def _one(self) -> PromptRequest:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("give either messages or prompt")
        return self


class InfluenceRequest(PromptRequest):
    """``POST /v1/guide/influence``."""

    form: Literal["paper", "exact", "authors", "rollout", "raw"] = "paper"
    max_tokens: int = Field(0, ge=0, description="Tokens of the answer to measure.")
    temperature: float = Field(
        0.0, ge=0, le=100, allow_inf_nan=False, description="Of the answers; 0: the likeliest."
    )
    seed: int = Field(0, ge=-(1 << 63), lt=1 << 63, description="Of sampled answers.")
    stream: bool = Field(
        False, description="Both answers side by side, each token with its Influence."
    )

    @field_validator("temperature")
    @classmethod
    def _divides(cls, temperature: float) -> float:
        check_temperature(temperature)
        return temperature

    @model_validator(mode="after")
    def _of_an_answer(self) -> InfluenceRequest:
        for name, value in (("temperature", self.temperature), ("seed", self.seed)):
            if value and not self.max_tokens:
                raise ValueError(f"{name} must come with max_tokens: a prompt alone is measured")
        return self


class SourcesRequest(PromptRequest):
    """``POST /v1/guide/sources``."""

    answer: Text | Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=1 << 17)] = Field(
        "", description="What follows the prompt exactly as it stands: text or token ids."
    )
    token: int = Field(
        -1, description="Which token, from the beginning of the prompt; below 0 from the end."
    )
    of: Literal["written", "read"] = Field(
        "written", description="The row that wrote the token, or the row of the token itself."
    )
    layers: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=1, max_length=1024, description="Layers whose heads are told one by one."
    )


class ScoreRequest(PromptRequest):
    """``POST /v1/guide/score``."""

    answers: list[Annotated[str, Field(min_length=1, max_length=1 << 16)]] = Field(
        min_length=1, max_length=16, description="Ways to say the answer, whose chances are added."
    )
    exact: bool = Field(
        False,
        description="True: answers as they stand. False: with and without a space in front.",
    )
    deltas: list[Nats] | None = Field(
        None, min_length=1, max_length=256, description="Δ of a level-2 mark, nats, each in turn."
    )
    factors: list[Nats] | None = Field(
        None, min_length=1, max_length=256,
        description="Instead of deltas: what the nats of every mark are multiplied by.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _strengths(self) -> ScoreRequest:
        if (self.deltas is None) == (self.factors is None):
            raise ValueError("give either deltas or factors")
        if self.guide.min_share is not None or not self.guide.enabled:
            raise ValueError("guide must steer by nats to be scored at several strengths")
        if self.deltas is not None and self.guide.delta is not None:
            raise ValueError("guide.delta must be left out beside deltas, which say the same")
        return self


class CalibrateRequest(PromptRequest):
    """``POST /v1/guide/calibrate``."""

    target: Literal["uppercase"] | Annotated[float, Field(gt=0, allow_inf_nan=False)] = "uppercase"
    form: Literal["paper", "exact", "authors", "rollout", "raw"] = "paper"
    max_delta: float = Field(8.0, gt=0, allow_inf_nan=False)
