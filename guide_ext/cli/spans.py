# SPDX-License-Identifier: MIT
"""``guide-ext spans``: show what the tags of a prompt mark."""

from __future__ import annotations

import json

import typer

from guide_ext.cli.options import (
    ChatOption,
    DeltaOption,
    FileOption,
    JsonOption,
    ModelOption,
    PromptArgument,
    SystemOption,
    checked_text,
    read_prompt,
)
from guide_ext.embedded import EMBEDDED
from guide_ext.report.console import console, say


def spans(
    prompt: PromptArgument = None,
    file: FileOption = None,
    model: ModelOption = EMBEDDED,
    delta: DeltaOption = 2.0,
    system: SystemOption = None,
    chat: ChatOption = True,
    as_json: JsonOption = False,
) -> None:
    """Show what the tags of a prompt mark, token by token. Only the tokenizer is loaded."""
    from guide_ext import integration
    from guide_ext.cli.terminal import marked_tokens
    from guide_ext.marking.chat import encode_chat
    from guide_ext.marking.tokens import encode_text
    from guide_ext.steering.steering import Steering

    text = read_prompt(prompt, file)
    system = None if system is None else checked_text("--system", system)
    tokenizer = integration.load_tokenizer(
        model, on_note=lambda text: say(f"note: {text}", err=True)
    )
    wrapped = integration.as_prompt(tokenizer, text, system=system, chat=chat)
    if isinstance(wrapped, str):
        encoding = encode_text(tokenizer, wrapped)
    else:
        encoding = encode_chat(tokenizer, wrapped)
    Steering.guide(delta).bias(encoding)  # raises if generate would
    pieces = tokenizer.convert_ids_to_tokens(encoding.input_ids)
    if as_json:
        record = {"text": encoding.text, "tokens": pieces, "input_ids": encoding.input_ids}
        typer.echo(json.dumps(record | {"nats": encoding.nats(delta), "groups": encoding.groups()}))
    else:
        console().print(marked_tokens(encoding, pieces, delta))
