# SPDX-License-Identifier: MIT
"""What follows an answer while it is written: its text on standard output, a count of tokens."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import TextStreamer
from transformers.generation.streamers import BaseStreamer

from guide_ext.support.visible import TerminalStream


class AnswerStream(BaseStreamer):  # type: ignore[misc]
    """Follows one call of ``generate``, of one prompt or a batch.

    Args:
        tokenizer: Prints the text of a single prompt by it; None to print nothing.
        on_token: Called after every step with the number of tokens that each answer has by then.

    """

    def __init__(
        self, tokenizer: Any | None = None, on_token: Callable[[int], None] | None = None
    ) -> None:
        """Wait for the prompt, which comes first."""
        self._text = None if tokenizer is None else _TextStream(tokenizer)
        self._on_token = on_token
        self._steps = -1

    def put(self, value: Tensor) -> None:
        """Take the prompt, then the tokens of every step."""
        self._steps += 1
        if self._text is not None:
            self._text.put(value)
        if self._on_token is not None and self._steps:
            self._on_token(self._steps)

    def end(self) -> None:
        """Print what is left."""
        self._steps = -1
        if self._text is not None:
            self._text.end()


class _TextStream(TextStreamer):  # type: ignore[misc]
    """Prints text as it is into files and pipes; a terminal shows it and does not obey it."""

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
