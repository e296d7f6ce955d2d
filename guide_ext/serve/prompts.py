# SPDX-License-Identifier: MIT
"""From the text of a request to tokens and nats, within the limits of the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from guide_ext.integration.model.state import strength_size, table_size
from guide_ext.marking.chat import encode_chat, read_text
from guide_ext.marking.marked_text import MarkedText, Span
from guide_ext.marking.spans import parse
from guide_ext.marking.tags import TagError
from guide_ext.marking.tokens import Encoding, encode_text
from guide_ext.serve.errors import ApiError
from guide_ext.serve.schemas import GuideOptions, Message, SpanOfText
from guide_ext.serve.settings import Settings
from guide_ext.steering.steering import Steering


@dataclass(frozen=True)
class Prepared:
    """A prompt as the model gets it.

    Attributes:
        encoding: Its tokens and marks.
        nats: Bias of every token, as numbers that are the same if the prompts are.
        delta: Δ of a level-2 mark.
        layers: Steered layers; None for all.
        min_share: Least share of the attention instead of nats; None for nats.

    """

    encoding: Encoding
    nats: tuple[float, ...]
    delta: float
    layers: tuple[int, ...] | None = None
    min_share: float | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return len(self.encoding.input_ids)

    @property
    def steering(self) -> Steering:
        """What the marks mean."""
        return Steering.guide(self.delta, layers=self.layers)

    def is_steered(self) -> bool:
        """Return whether any token has a bias or a share."""
        if self.min_share is not None:
            return self.min_share > 0 and any(s.group is None for s in self.encoding.token_spans)
        return any(self.nats)

    def said(self) -> dict[str, Any]:
        """Return what was steered, for the answer."""
        spans = [span for span in self.encoding.token_spans if span.group is None]
        marked = {token for span in spans for token in range(span.start, span.end)}
        strength = (
            {"delta": self.delta} if self.min_share is None else {"min_share": self.min_share}
        )
        return {
            **strength,
            "marked_tokens": len(marked),
            "spans": [
                {"start": span.start, "end": span.end, "nats": span.nats(self.delta)}
                if self.min_share is None
                else {"start": span.start, "end": span.end}
                for span in spans
            ],
            "layers": None if self.layers is None else list(self.layers),
        }


class Prompts:
    """Reads prompts.

    Args:
        model: An enabled decoder.
        tokenizer: Its fast tokenizer. Several threads use it at the same time.
        settings: The limits.

    """

    def __init__(self, model: Any, tokenizer: Any, settings: Settings) -> None:
        self.model, self.tokenizer, self._settings = model, tokenizer, settings
        # A fast tokenizer that was saved with a padding or a length drops them at its first use,
        # and must not be changed while another thread uses it.
        encode_text(tokenizer, "a")

    def of_chat(self, messages: Sequence[Message], guide: GuideOptions) -> Prepared:
        """Read a chat.

        Raises:
            ApiError: If it cannot be read, or is over a limit.

        """
        chat = self._chat(messages, guide)
        with _told("messages"):
            encoding = encode_chat(
                self.tokenizer,
                chat,
                trusted_roles=self._roles(guide),
                untrusted_tags=guide.untrusted_tags,
            )
        return self._prepared(encoding, guide)

    def _chat(self, messages: Sequence[Message], guide: GuideOptions) -> list[dict[str, Any]]:
        """Return messages for the template; parts and spans are marked texts by then."""
        trusted = self._roles(guide)
        if not getattr(self.tokenizer, "chat_template", None):
            raise ApiError(
                400, "messages must go to a model with a chat template, which this one has not; "
                "send the text to /v1/completions", "messages",
            )  # fmt: skip
        spans = self._spans(guide.spans, len(messages))
        with _told("messages"):
            return [
                _message(message, index, spans.get(index), trusted, guide.untrusted_tags)
                for index, message in enumerate(messages)
            ]

    def of_text(self, text: str, guide: GuideOptions) -> Prepared:
        """Read a text.

        Raises:
            ApiError: If it cannot be read, or is over a limit.

        """
        if guide.trusted_roles is not None or guide.untrusted_tags != "error":
            raise ApiError(
                400,
                "guide.trusted_roles and guide.untrusted_tags must go with messages, whose roles "
                "they name, got a prompt",
                "guide",
            )
        spans = self._spans(guide.spans, 1).get(0)
        with _told("prompt"):
            marked = parse(text) if spans is None else _with_spans(text, spans, "prompt")
            encoding = encode_text(self.tokenizer, marked)
        if not encoding.input_ids:
            raise ApiError(400, "prompt must have at least one token, got none", "prompt")
        return self._prepared(encoding, guide)

    def of_request(
        self, messages: Sequence[Message] | None, prompt: str | None, guide: GuideOptions
    ) -> Prepared:
        """Read a chat or a text, whichever there is."""
        if messages is not None:
            return self.of_chat(messages, guide)
        return self.of_text(prompt or "", guide)

    def as_read(
        self, messages: Sequence[Message] | None, prompt: str | None, guide: GuideOptions
    ) -> list[dict[str, Any]] | str:
        """Return a chat or a text, whichever there is, with its tags."""
        return self._chat(messages, guide) if messages is not None else prompt or ""

    def _roles(self, guide: GuideOptions) -> tuple[str, ...]:
        """Return the roles whose tags act: those of the server, or fewer."""
        allowed = self._settings.trusted_roles
        if guide.trusted_roles is None:
            return allowed
        further = sorted(set(guide.trusted_roles) - set(allowed))
        if further:
            raise ApiError(
                400, f"guide.trusted_roles must be among {', '.join(allowed)}, got "
                f"{', '.join(further)}; a request cannot add roles", "guide",
            )  # fmt: skip
        return tuple(guide.trusted_roles)

    def _spans(
        self, spans: Sequence[SpanOfText] | None, messages: int
    ) -> dict[int, list[SpanOfText] | None]:
        """Sort spans by message; with any list of spans, even an empty one, no tag is read."""
        if spans is None:
            return {}
        found: dict[int, list[SpanOfText] | None] = {index: [] for index in range(messages)}
        for span in spans:
            of_message = found.get(span.message)
            if of_message is None:
                raise ApiError(
                    400, f"guide.spans: message must be below {messages}, got {span.message}",
                    "guide",
                )  # fmt: skip
            of_message.append(span)
        return found

    def _prepared(self, encoding: Encoding, guide: GuideOptions) -> Prepared:
        limits = self._settings
        if len(encoding.spans) > limits.max_spans:
            raise ApiError(
                400, f"a prompt must have at most {limits.max_spans} marks, got "
                f"{len(encoding.spans)}", "guide",
            )  # fmt: skip
        if len(encoding.input_ids) > limits.max_prompt_tokens:
            raise ApiError(
                400, f"a prompt must have at most {limits.max_prompt_tokens} tokens, got "
                f"{len(encoding.input_ids)}; shorten it", code="context_length_exceeded",
            )  # fmt: skip
        known = self.model.get_input_embeddings().weight.shape[0]
        if max(encoding.input_ids) >= known:
            raise ApiError(
                400,
                f"a prompt must have tokens that the model knows, below {known}, got "
                f"{max(encoding.input_ids)}; its tokenizer has more than the model",
            )
        if not guide.enabled:
            encoding = replace(encoding, spans=(), token_spans=())
        delta = limits.delta if guide.delta is None else guide.delta
        layers = None if guide.layers is None else tuple(sorted(set(guide.layers)))
        if layers is not None:
            self._check_layers(layers)
        with _told("guide"):
            nats = tuple(encoding.nats(delta))
        most = max(map(abs, (*nats, delta)), default=0.0)
        if guide.min_share is None and most > limits.max_nats:
            raise ApiError(
                400, f"a token must have a bias from -{limits.max_nats:g} to {limits.max_nats:g} "
                f"nats, got {most:g} (delta is {delta:g}; marks on the same text add up)", "guide",
            )  # fmt: skip
        return Prepared(encoding, nats, delta, layers, guide.min_share)

    def _check_layers(self, layers: Sequence[int]) -> None:
        number = table_size(self.model)[0]
        if layers[-1] >= number:
            raise ApiError(
                400, f"guide.layers must be below {number}, as the model has, got {layers[-1]}",
                "guide",
            )  # fmt: skip
        with _told("guide"):
            strength_size(self.model)


def _message(
    message: Message,
    index: int,
    spans: list[SpanOfText] | None,
    trusted: Sequence[str],
    untrusted_tags: str,
) -> dict[str, Any]:
    """Return a message for the template: its text, or its parts in one marked text."""
    where = f"messages[{index}]"
    named = {} if message.name is None else {"name": message.name}
    content: str | MarkedText
    if spans is not None:
        parts = message.content
        text = parts if isinstance(parts, str) else "\n".join(part.text for part in parts)
        content = _with_spans(text, spans, where)
    elif isinstance(message.content, str):
        content = message.content
    else:
        content = _joined(
            [
                read_text(
                    MarkedText(part.text) if part.literal else part.text,
                    f"{where} (role {message.role!r})",
                    untrusted_tags,
                    is_trusted=message.role in trusted,
                )
                for part in message.content
            ]
        )
    return {"role": message.role, "content": content, **named}


class _told:  # noqa: N801
    """Turn what is wrong with a text into an answer to its sender."""

    def __init__(self, param: str) -> None:
        self._param = param

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # jinja2's errors, which a template raises about roles and their order, are no ValueErrors.
        is_of_template = type(error).__module__.startswith("jinja2")
        if isinstance(error, TagError | ValueError | TypeError) or is_of_template:
            raise ApiError(400, str(error), self._param) from None


def _joined(texts: Sequence[MarkedText]) -> MarkedText:
    """Join texts with line breaks, and move their spans."""
    text, spans = "", []
    for index, one in enumerate(texts):
        text += "\n" if index else ""
        spans += [span.at(span.start + len(text), span.end + len(text)) for span in one.spans]
        text += one.text
    return MarkedText(text, tuple(spans))


def _with_spans(plain: str, spans: Sequence[SpanOfText], where: str) -> MarkedText:
    """Mark ranges of a text whose tags are plain text."""
    for span in spans:
        if span.end > len(plain):
            raise ValueError(
                f"guide.spans: end must be at most {len(plain)}, the length of {where}, got "
                f"{span.end}"
            )
    return MarkedText(
        plain,
        tuple(
            Span(one.start, one.end, delta=one.delta)
            if one.delta is not None
            else Span(one.start, one.end, level=one.level or 2)
            for one in spans
        ),
    )
