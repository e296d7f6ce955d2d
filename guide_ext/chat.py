# SPDX-License-Identifier: MIT
"""Chats with marked messages; see `guide_ext.marking.chat`."""

from guide_ext.marking.chat import (
    ChatTokenizer,
    Encoding,
    encode_chat,
    mark_message,
    mark_tokens,
    render_chat,
)
from guide_ext.marking.tokens import encode_text as encode

__all__ = [
    "ChatTokenizer",
    "Encoding",
    "encode",
    "encode_chat",
    "mark_message",
    "mark_tokens",
    "render_chat",
]
