# SPDX-License-Identifier: MIT
"""Follow an answer while it is written: print its text, count its tokens."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import TextStreamer
from transformers.generation.streamers import BaseStreamer

from guide_ext.support.visible import TerminalStream


class AnswerStream(BaseStreamer):  # type: ignore[misc]
    """A streamer that follows one call of ``generate``, for one prompt or a batch.

    Args:
        tokenizer: To print the text of the answer to a single prompt; None to print nothing.
        on_token: Called after every step with the number of tokens that each answer has so far.

    """

    def __init__(
        self, tokenizer: Any | None = None, on_token: Callable[[int], None] | None = None
    ) -> None:
        self._text = None if tokenizer is None else _TextStream(tokenizer)
        self._on_token = on_token
        self._steps = -1

    def put(self, value: Tensor) -> None:
        """Take the prompt first, then the tokens of each step."""
        self._steps += 1
        if self._text is not None:
            self._text.put(value)
        if self._on_token is not None and self._steps:
            self._on_token(self._steps)

    def end(self) -> None:
        """Print the rest of the text."""
        self._steps = -1
        if self._text is not None:
            self._text.end()


class _TextStream(TextStreamer):  # type: ignore[misc]
    """Prints text unchanged into files and pipes; on a terminal with control characters visible."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._shown = TerminalStream()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        out = sys.stdout
        if out is None:  # closed
            return
        if out.isatty():
            text = self._shown.feed(text) + (self._shown.end() if stream_end else "")
        out.write(text + "\n" * stream_end)
        out.flush()
