# SPDX-License-Identifier: MIT
"""``docs/models.md``: what the sweep found, as a page, and read back from it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers

from .compare import Verdict

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
KINDS = (
    "exact",
    "exact, dense",
    "exact, by mask",
    "refused",
    "not run",
    "not built",
    "fails",
    "WRONG",
)
TITLES = {
    "causal": "Decoders",
    "seq2seq": "Encoder–decoders of text",
    "speech": "From sound to text",
    "masked": "Encoders",
    "image-text": "Images and text",
}
_HEAD = """# Models

`make sweep` writes this page, in a minute or two. It builds a small random model of every type
that transformers {transformers} knows for five tasks. Prompts are longer than every window,
selection, chunk and compression, and weights are sharpened, so that attention is far from uniform.
A forward pass, strengths for layers and heads, a batch with padding, and generation from a cache
are compared with the model's own eager attention that has the bias in its mask, and of which no
code is ours. (Here with torch {torch}.)

- **exact**: all agree within {tolerance:g} of the largest logit, and the bias moves the logits.
- **exact, dense**: so do these, with masks whose memory grows with the square of the prompt. In
  models that choose keys, it does so anyway:
  [transformers.md](transformers.md#models-that-choose-their-keys).
- **exact, by mask**: so do these, whose attention is code of their own and adds its mask. The mask
  gets the bias; there are no strengths for layers and heads, no shares, no Influence.
- **refused**: `enable()` raises an error; the table has the reason. Nothing is steered in part.
- **not run**: the small model fails under eager attention, too, on text alone or with these sizes.
- **not built**: no small model was found.

Models with images or sound in front of a decoder are compared on text alone. *Influence* says
whether it can be measured. A class that serves several tasks is in the first of them.

"""
_REASONS = (
    (r"no strengths: .* code of its own", ""),
    (r"code of its own; a bias in its mask would not steer it: (.*)", "attention of its own; {0}"),
    (r"calls attention nowhere|never hands a mask", "has no attention layer that takes a mask"),
    (r"has no vocab_size", "reads no token ids"),
    (r"fails with (\w+)", "its mask cannot be replaced ({0})"),
    (r"differs by up to", "differs from its own eager attention: it reads or reworks its mask"),
    (r"without one: its keys are not the tokens|the mask of the model", "makes masks of its own"),
    (r"behind (\d+); the model uses another cache", "does not use the cache that it is given"),
    (r"must describe all \d+ keys", "has keys that its mask does not describe"),
    (r"no strengths", "no guide_strength: its masks are chunked, blockwise or of its own"),
    (r"requires the (\w+) library", "needs the package {0}"),
    (r"Class validation error .* ValueError: (.*)", "{0}"),
    (r"alone, got (.*)", "{0}"),
    (r"in all its layers, got", "its encoder computes attention in code of its own"),
    (r"as many positions in all its layers", "its encoder gives on fewer positions than it has"),
)
_MOST = 110  # characters of a reason


def written(found: Mapping[tuple[str, str], Verdict], tolerance: float) -> str:
    """Return the page.

    Args:
        found: Verdicts by task and type.
        tolerance: What "exact" means.

    """
    text = _HEAD.format(
        transformers=transformers.__version__,
        torch=torch.__version__.partition("+")[0],
        tolerance=tolerance,
    )
    kinds = [kind for kind in KINDS if any(one.kind == kind for one in found.values())]
    lines = [f"| | types | {' | '.join(kinds)} |", "|---|---:|" + "---:|" * len(kinds)]
    for task, title in TITLES.items():
        counts = Counter(one.kind for (own, _), one in found.items() if own == task)
        cells = " | ".join(str(counts[kind]) for kind in kinds)
        lines.append(f"| [{title}](#{_anchor(title)}) | {counts.total()} | {cells} |")
    counts = Counter(one.kind for one in found.values())
    cells = " | ".join(str(counts[kind]) for kind in kinds)
    lines.append(f"| all | {counts.total()} | {cells} |")
    text += "\n".join(lines) + "\n"
    for task, title in TITLES.items():
        rows = {name: one for (own, name), one in found.items() if own == task}
        text += f"\n## {title}\n\n| type | class | Influence | why, or what not |\n"
        text += "|---|---|---|---|\n"
        for name, one in sorted(rows.items()):
            influence = one.influence.partition(":")[0] or "–"
            text += f"| `{name}` | {one.kind} | {influence} | {_reason(one)} |\n"
    return text


def read(page: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Return class and Influence by task and type.

    Args:
        page: What `written` returned.

    """
    found = {}
    for task, title in TITLES.items():
        section = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        for name, kind, influence in re.findall(r"^\| `(.+?)` \| (.+?) \| (.+?) \|", section, re.M):
            found[task, name] = (kind, influence)
    return found


def _anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def _reason(verdict: Verdict) -> str:
    """Return why a type is not exact, in a few words; or what an exact one lacks."""
    note = " ".join(verdict.note.split())
    for pattern, words in _REASONS:
        if match := re.search(pattern, note):
            note = words.format(*match.groups())
            break
    note = note if len(note) <= _MOST else note[:_MOST].rsplit(" ", 1)[0] + " …"
    return note.replace("|", "/").replace("<", "&lt;")
