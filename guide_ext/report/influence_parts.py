# SPDX-License-Identifier: MIT
"""The parts of the page about Influence, as HTML: group 0 after the last layer.

``influence.js`` shows other groups and layers in the same elements.
"""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Sequence

from guide_ext.report.influence_record import Record, Run, Token, visible

HEAT = (240, 140, 0)  # in influence.css too
_WIDTH, _HEIGHT = 1000, 200  # of the curve's own coordinates
_DENSE = 600  # tokens from which on a curve needs a thinner pen


def _text(value: str) -> str:
    return html.escape(visible(value), quote=True)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _factor(plain: float | None, guided: float | None) -> str:
    return f"×{guided / plain:.2f}" if plain and guided is not None else "–"


def header(record: Record) -> str:
    """Say what was measured on what."""
    names = ", ".join(f"“{_text(name)}”" for name in record.groups)
    noun = "group" if len(record.groups) == 1 else "groups"
    return f"""<header>
<h1>How far the marked text reaches</h1>
<p>Influence of the {noun} {names} on every token, by the form <b>{_text(record.form)}</b>;
model <b>{_text(record.model)}</b>, {record.layers} layers, {record.prompt_tokens} tokens of prompt;
guide_ext {_text(record.version)}.</p>
</header>"""


def summary(record: Record) -> str:
    """Show the means that one compares prompts by."""
    heads = "".join(f'<th scope="col">{html.escape(run.label)}</th>' for run in record.runs)
    is_compared = len(record.runs) == 2
    factor = '<th scope="col">factor</th>' if is_compared else ""
    last = f"last {record.end_tokens} tokens of the prompt"
    rows = []
    for index, group in enumerate(record.groups):
        for place, values in (
            (last, [run.at_end[index] for run in record.runs]),
            ("answer", [run.in_answer[index] for run in record.runs]),
        ):
            cells = "".join(f"<td>{_number(value)}</td>" for value in values)
            cells += f"<td>{_factor(*values)}</td>" if is_compared else ""
            row = f'<th scope="row">{_text(group)}</th><th scope="row">{place}</th>{cells}'
            rows.append(f"<tr>{row}</tr>")
    return f"""<section aria-labelledby="means"><h2 id="means">Mean Influence</h2>
<div class="wide"><table class="means"><thead><tr><th scope="col">group</th>
<th scope="col">over</th>{heads}{factor}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>
</section>"""


def controls(record: Record) -> str:
    """Let the reader choose group, layer and numbers; without the script only the numbers."""
    options = "".join(
        f'<option value="{index}">{_text(name)}</option>'
        for index, name in enumerate(record.groups)
    )
    top = f"{record.top(0):g}"
    layers = record.layers
    return f"""<form class="controls" aria-label="What is shown" autocomplete="off">
<label class="scripted">Group <select id="group">{options}</select></label>
<label class="scripted">After layer
<input type="range" id="layer" min="0" max="{layers}" value="{layers}" step="1">
<output id="layer-name">{layers} of {layers}</output></label>
<label><input type="checkbox" id="show-numbers"> Numbers under the tokens</label>
<span class="legend"><span>0</span><span class="ramp"></span><span id="top">{top}</span></span>
</form>"""


def texts(record: Record) -> str:
    """Show what was written and the prompt as coloured text, runs side by side."""
    answers = "".join(
        _text_block(record, index, record.prompt_tokens, len(run.tokens), "answer")
        for index, run in enumerate(record.runs)
    )
    prompts = "".join(
        _text_block(record, index, 0, record.prompt_tokens, "prompt")
        for index in range(len(record.runs))
    )
    return f"""<section aria-labelledby="answers"><h2 id="answers">The answer</h2>
<p class="scripted hint">Point at a token, or tab to a text and walk with ← →; ↑ ↓ change the
layer.</p><div class="pair">{answers}</div></section>
<section aria-labelledby="prompts"><h2 id="prompts">The prompt</h2>
<p class="hint"><span class="tok in">boxed</span> in the group,
<span class="tok steered">underlined</span> steered,
<span class="tok raw">small</span> the name of a token without text.</p>
<div class="pair">{prompts}</div></section>"""


def _text_block(record: Record, index: int, begin: int, end: int, part: str) -> str:
    run = record.runs[index]
    label = f"{part}, {html.escape(run.label)}"
    spans = "".join(
        _token_span(record, run, index, token, is_stop=token == begin)
        for token in range(begin, end)
    )
    body = spans or '<span class="hint">nothing</span>'
    role = ' role="listbox" aria-orientation="horizontal"' if spans else ""
    return f"""<div class="run {run.name}"><h3>{html.escape(run.label)}</h3>
<div class="text" lang="" dir="auto" translate="no"{role} aria-label="{label}">{body}</div></div>"""


def _token_span(record: Record, run: Run, index: int, token: int, *, is_stop: bool) -> str:
    shown = run.tokens[token]
    value = run.values[0][-1][token]
    classes = ["tok"]
    if shown.is_raw:
        classes.append("raw")
    if record.is_member(0, token):
        classes.append("in")
    if token < record.prompt_tokens and record.nats[token] and run.name == "guided":
        classes.append("steered")
    label = f"{_quoted(shown)}: {'not measured' if value is None else _number(value)}"
    strength = min(1.0, (value or 0.0) / record.top(0))
    return (
        f'<span class="{" ".join(classes)}" role="option" aria-selected="false" '
        f'tabindex="{0 if is_stop else -1}" data-run="{index}" data-token="{token}" '
        f'data-number="{_number(value)}" style="--v:{strength:.3f}" title="{label}" '
        f'aria-label="{label}">{_body(shown)}</span>'
    )


def _quoted(token: Token) -> str:
    name = html.escape(token.label, quote=True)
    return name if token.is_raw else f"“{name}”"


def _body(token: Token) -> str:
    """Return what stands in the text: its own line breaks and tabs, marked and alive."""
    if token.is_raw:
        return html.escape(token.label)
    lines = token.text.split("\n")
    return "↵\n".join(html.escape(visible(line)) for line in lines)


def positions(record: Record) -> str:
    """Show Influence over position: a curve of one layer, and every layer as a heat map."""
    maps = "".join(_heat_map(record, index) for index in range(len(record.runs)))
    width = 100 * record.prompt_tokens / record.longest
    return f"""<section aria-labelledby="places"><h2 id="places">Along the text</h2>
<div class="plots">{_curve(record)}{maps}
<div class="gutter"></div><div class="axis" aria-hidden="true">
<span style="width:{width:.3f}%">prompt</span><span>answer</span></div></div></section>"""


def _slider(record: Record, label: str) -> str:
    return (
        f'class="plot" role="slider" tabindex="0" aria-label="{label}" aria-valuemin="0" '
        f'aria-valuemax="{record.longest - 1}" aria-valuenow="0" aria-valuetext="token 0"'
    )


def _curve(record: Record) -> str:
    top = record.top(0)
    bands = "".join(
        f'<rect class="band" x="{_x(record, start):.2f}" y="0" height="{_HEIGHT}" '
        f'width="{_x(record, end) - _x(record, start):.2f}"/>'
        for start, end in record.ranges(0)
    )
    border, half = _x(record, record.prompt_tokens), _HEIGHT // 2
    dense = ' class="dense"' if record.longest > _DENSE else ""
    lines = "".join(
        f'<path class="{run.name}" data-run="{index}" d="{_path(record, run.values[0][-1], top)}"/>'
        for index, run in enumerate(record.runs)
    )
    keys = "".join(
        f'<span class="key {run.name}">{html.escape(run.label)}</span>' for run in record.runs
    )
    return f"""<div class="gutter"></div>
<div class="keys">{keys}<span class="key band">the group itself</span></div>
<div class="gutter scale" aria-hidden="true"><span id="curve-top">{top:g}</span><span>0</span></div>
<div {_slider(record, "Curve of Influence over position")}>
<svg{dense} viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">
<g id="bands">{bands}</g><line class="grid" x1="0" x2="{_WIDTH}" y1="{half}" y2="{half}"/>
<line class="border" x1="{border:.2f}" x2="{border:.2f}" y1="0" y2="{_HEIGHT}"/>{lines}</svg>
<div class="cursor"></div></div>"""


def _x(record: Record, token: float) -> float:
    return _WIDTH * token / record.longest


def _path(record: Record, values: Sequence[float | None], top: float) -> str:
    """Return the line through the measured tokens."""
    points = [
        f"{_x(record, token + 0.5):.2f} {_HEIGHT * (1 - min(1.0, value / top)):.2f}"
        for token, value in enumerate(values)
        if value is not None
    ]
    return "M" + "L".join(points) if points else ""


def _heat_map(record: Record, index: int) -> str:
    run = record.runs[index]
    images = "".join(
        f'<img alt="" data-group="{group}"{" hidden" if group else ""} '
        f'src="{_picture(record, run, group)}">'
        for group in range(len(record.groups))
    )
    height = max(4.0, min(13.0, 0.9 * (record.layers + 1))) + 1.5
    label = html.escape(f"Heat map of every layer over position, {run.label}")
    return f"""<div class="gutter"></div><div class="keys"><span class="key {run.name}">
{html.escape(run.label)}: every layer</span></div>
<div class="gutter scale" aria-hidden="true"><span>layer {record.layers}</span><span>0</span></div>
<div {_slider(record, label)} data-run="{index}" style="height:{height:.1f}rem">{images}
<div class="level"></div><div class="cursor"></div></div>"""


def _picture(record: Record, run: Run, group: int) -> str:
    """Return one pixel per layer (the last on top) and token, as a PNG inside a URI.

    A picture stays small where as many elements of a page would choke a browser: 32 layers of a
    prompt of 4000 tokens are 128,000 pixels.
    """
    top = record.top(group)
    rows = b"".join(
        b"\0"  # no filter
        + b"".join(
            bytes((*HEAT, round(255 * min(1.0, (value or 0.0) / top))))
            for value in (*level, *[None] * (record.longest - len(level)))
        )
        for level in reversed(run.values[group])
    )
    head = struct.pack(">IIBBBBB", record.longest, record.layers + 1, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    return "data:image/png;base64," + base64.b64encode(png).decode()


def numbers(record: Record) -> str:
    """Show every token's Influence after the last layer as a table."""
    heads = "".join(
        f'<th scope="col">{_text(group)}, {html.escape(run.label)}</th>'
        for group in record.groups
        for run in record.runs
    )
    rows = []
    for token in range(record.longest):
        tokens = [run.tokens[token] if token < len(run.tokens) else None for run in record.runs]
        labels = list(dict.fromkeys(_quoted(shown) for shown in tokens if shown is not None))
        cells = "".join(
            f"<td>{_number(run.values[group][-1][token]) if token < len(run.tokens) else ''}</td>"
            for group in range(len(record.groups))
            for run in record.runs
        )
        part = "prompt" if token < record.prompt_tokens else "answer"
        rows.append(
            f'<tr><th scope="row">{token}</th><td>{part}</td>'
            f'<td lang="" dir="auto">{" / ".join(labels)}</td>{cells}</tr>'
        )
    return f"""<section><details><summary>All numbers after layer {record.layers}</summary>
<div class="wide"><table><thead><tr><th scope="col">token</th><th scope="col">in</th>
<th scope="col">text</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></details>
</section>"""


def readout() -> str:
    """Make room for the numbers of the token that is pointed at or focused."""
    return '<div id="readout" class="scripted" role="status" aria-live="polite"></div>'
