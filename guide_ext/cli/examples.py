# SPDX-License-Identifier: MIT
"""Files of questions whose right answers are known, for the commands that learn from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

ExamplesArgument = Annotated[
    Path,
    typer.Argument(
        help='A line of JSON for each: {"prompt": "… <!!->…<-!!> …", "answers": ["…"]}.'
    ),
]


def parse_examples(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Read prompts and answers.

    Raises:
        ValueError: If a line is not such an object, or there is none.

    Example:
        >>> parse_examples('{"prompt": "A <!!->red<-!!> door. Its colour?", "answers": ["red"]}')
        [('A <!!->red<-!!> door. Its colour?', ('red',))]

    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            prompt, answers = value["prompt"], value["answers"]
        except (ValueError, TypeError, KeyError):
            prompt, answers = None, None
        is_list = isinstance(answers, list) and all(isinstance(one, str) for one in answers)
        if not isinstance(prompt, str) or not is_list or not answers:
            raise ValueError(
                'EXAMPLES must have lines such as {"prompt": "…", "answers": ["…"]}, got another '
                f"in line {number}"
            )
        found.append((prompt, tuple(answers)))
    if not found:
        raise ValueError("EXAMPLES must have at least one line, got none")
    return found
