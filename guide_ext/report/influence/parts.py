# SPDX-License-Identifier: MIT
"""The parts of the page about Influence, as HTML. They show group 0 after the last layer.

``influence.js`` shows other groups and layers, and guided minus plain, in the same elements.
"""

from __future__ import annotations

from markupsafe import Markup

from guide_ext.influence.record import GUIDED, Record, Run, Token, number_text, visible
from guide_ext.report.document import joined, markup

DIFFERENCE = "guided − plain"


def _factor(plain: float | None, guided: float | None) -> str:
    return f"×{guided / plain:.2f}" if plain and guided is not None else "–"


def header(record: Record) -> Markup:
    """Return the head of the page: groups, form, model, length."""
    return markup(
        """<header>
<h1>How far the marked text reaches</h1>
<p>Influence of the {noun} {names} on every token, by the form <b>{form}</b>;
model <b>{model}</b>, {layers} layers, {tokens} tokens of prompt; guide_ext {version}.</p>
</header>""",
        noun="group" if len(record.groups) == 1 else "groups",
        names=joined((markup("“{}”", name) for name in record.groups), ", "),
        form=record.form,
        model=record.model,
        layers=record.layers,
        tokens=record.prompt_tokens,
        version=record.version,
    )


def _head(text: str) -> Markup:
    return markup('<th scope="col">{}</th>', text)


def summary(record: Record) -> Markup:
    """Return the table of means, by which prompts are compared."""
    rows = []
    for index, group in enumerate(record.groups):
        for place, values in (
            (
                f"last {record.end_tokens} tokens of the prompt",
                [run.at_end[index] for run in record.runs],
            ),
            ("answer", [run.in_answer[index] for run in record.runs]),
        ):
            cells = [number_text(value) for value in values]
            if record.is_compared:
                cells.append(_factor(*values))
            rows.append(
                markup(
                    '<tr><th scope="row">{}</th><th scope="row">{}</th>{}</tr>',
                    group,
                    place,
                    joined(markup("<td>{}</td>", cell) for cell in cells),
                )
            )
    heads = ["group", "over", *(run.label for run in record.runs)]
    if record.is_compared:
        heads.append("factor")
    return markup(
        """<section aria-labelledby="means"><h2 id="means">Mean Influence</h2>
<div class="wide" role="region" tabindex="0" aria-labelledby="means"><table class="means">
<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div></section>""",
        joined(map(_head, heads)),
        joined(rows),
    )


def controls(record: Record) -> Markup:
    """Return the controls: group, layer, numbers, scale. Some work only with the script."""
    options = joined(
        markup('<option value="{}">{}</option>', index, name)
        for index, name in enumerate(record.groups)
    )
    return markup(
        """<div class="bar">{views}
<form class="controls" aria-label="What is shown" autocomplete="off">
<label class="scripted">Group <select id="group">{options}</select></label>
<label class="scripted">After layer
<input type="range" id="layer" min="0" max="{layers}" value="{layers}" step="1">
<output id="layer-name">{layers} of {layers}</output></label>
<label><input type="checkbox" id="show-numbers"> Numbers under the tokens</label>
<label class="scripted"><input type="checkbox" id="one-scale"> One scale for all layers</label>
</form>
<div class="legend"><span class="visually-hidden">Colours of text and curve: </span>
<span id="bottom">0</span><span class="ramp" id="ramp"></span><span id="top">{top:g}</span></div>
</div>""",
        views=_views() if record.is_compared else markup(""),
        options=options,
        layers=record.layers,
        top=record.top(0, record.layers),
    )


def _views() -> Markup:
    """Return the switch between runs and difference; narrow screens show one run at a time."""
    return markup(
        """<form class="views" autocomplete="off"><fieldset><legend class="visually-hidden">Show
</legend><label class="narrow-only"><input type="radio" name="view" id="view-plain">
<span>plain</span></label>
<label><input type="radio" name="view" id="view-values" checked>
<span><span class="wide-only">plain and </span>guided</span></label>
<label class="scripted"><input type="radio" name="view" id="view-difference">
<span>{}</span></label></fieldset></form>""",
        DIFFERENCE,
    )


def texts(record: Record) -> Markup:
    """Return answers and prompt as coloured text, with the runs side by side."""
    runs = range(len(record.runs))
    answers = joined(
        _text_block(record, index, record.prompt_tokens, len(record.runs[index].tokens), "answer")
        for index in runs
    )
    prompts = joined(
        _text_block(record, index, 0, record.prompt_tokens, "prompt") for index in runs
    )
    same = record.compared_tokens - record.prompt_tokens
    first = f"and the first {same} of the answers" if same else "not the answers, which differ"
    note = markup(
        """<p class="hint only-difference">Compared are the tokens that both runs read after the
same text: those of the prompt, {}.</p>""",
        first,
    )
    return markup(
        """<section aria-labelledby="answers"><h2 id="answers">The answer</h2>
<p class="scripted hint">Point at a token, or tab to a text and walk with ← →; ↑ ↓ change the
layer.</p>{note}<div class="pair">{answers}</div></section>
<section aria-labelledby="prompts"><h2 id="prompts">The prompt</h2>
<p class="hint"><span class="tok in first last">outlined</span> in the group,
<span class="tok steered">underlined</span> steered,
<span class="tok raw"><small>small</small></span> the name of a token without text<span
class="only-difference">, <span class="tok less" style="--v:.7">striped</span> less in the guided
run</span>.</p>
<div class="pair">{prompts}</div></section>""",
        note=note if record.is_compared else markup(""),
        answers=answers,
        prompts=prompts,
    )


def _text_block(record: Record, index: int, begin: int, end: int, part: str) -> Markup:
    run = record.runs[index]
    spans = joined(
        _token_span(record, run, index, token, is_stop=token == begin)
        for token in range(begin, end)
    )
    title = markup("{}", run.label)
    if run.name == GUIDED:
        title = markup(
            '<span class="only-values">{}</span><span class="only-difference">{}</span>',
            run.label,
            DIFFERENCE,
        )
    role = markup(' role="listbox" aria-orientation="horizontal"') if spans else markup("")
    return markup(
        """<div class="run text-run part {name}"><h3>{title}</h3>
<div class="text" lang="" dir="auto" translate="no"{role} data-part="{part}" data-run="{index}"
aria-label="{part}, {label}">{body}</div></div>""",
        name=run.name,
        title=title,
        role=role,
        part=part,
        index=index,
        label=run.label,
        body=spans or markup('<span class="hint">nothing</span>'),
    )


def _token_span(record: Record, run: Run, index: int, token: int, *, is_stop: bool) -> Markup:
    shown = run.tokens[token]
    value = run.values[0][-1][token]
    classes = ["tok"]
    if shown.is_raw:
        classes.append("raw")
    if record.is_member(0, token):
        classes.append("in")
        # Neighbours share one outline.
        if not (token and record.is_member(0, token - 1)):
            classes.append("first")
        if not record.is_member(0, token + 1):
            classes.append("last")
    if token < record.prompt_tokens and record.nats[token] and run.name == GUIDED:
        classes.append("steered")
    number = number_text(value)
    label = f"{_quoted(shown)}: {'not measured' if value is None else number}"
    strength = min(1.0, (value or 0.0) / record.top(0, record.layers))
    return markup(
        '<span class="{classes}" role="option" aria-selected="false" tabindex="{stop}" '
        'data-run="{run}" data-token="{token}" data-number="{number}" style="--v:{strength:.3f}" '
        'title="{label}" aria-label="{label}">{body}</span>',
        classes=" ".join(classes),
        stop=0 if is_stop else -1,
        run=index,
        token=token,
        number=number,
        strength=strength,
        label=label,
        body=_body(shown),
    )


def _quoted(token: Token) -> str:
    return token.label if token.is_raw else f"“{token.label}”"


def _body(token: Token) -> Markup:
    """Return the text of a token. A line break in it is shown as a symbol and breaks the line."""
    if token.is_raw:
        return markup("<small>{}</small>", token.label)
    lines = (markup("{}", visible(line)) for line in token.text.split("\n"))
    return markup("↵\n").join(lines)


def numbers(record: Record) -> Markup:
    """Return a table of every token's Influence after the last layer."""
    heads = ["token", "in", "text"]
    for group in record.groups:
        heads += [f"{group}, {run.label}" for run in record.runs]
        if record.is_compared:
            heads.append(f"{group}, {DIFFERENCE}")
    rows = joined(_number_row(record, token) for token in range(record.longest))
    return markup(
        """<section><details><summary id="all-numbers">All numbers after layer {}</summary>
<div class="wide" role="region" tabindex="0" aria-labelledby="all-numbers"><table><thead><tr>{}</tr>
</thead><tbody>{}</tbody></table></div></details></section>""",
        record.layers,
        joined(map(_head, heads)),
        rows,
    )


def _number_row(record: Record, token: int) -> Markup:
    tokens = [run.tokens[token] for run in record.runs if token < len(run.tokens)]
    labels = dict.fromkeys(_quoted(shown) for shown in tokens)
    cells = []
    for group in range(len(record.groups)):
        cells += [
            number_text(run.values[group][-1][token]) if token < len(run.tokens) else ""
            for run in record.runs
        ]
        if record.is_compared:
            difference = record.difference(group, record.layers, token)
            cells.append(number_text(difference, is_signed=True))
    return markup(
        '<tr><th scope="row">{}</th><td>{}</td><td lang="" dir="auto">{}</td>{}</tr>',
        token,
        "prompt" if token < record.prompt_tokens else "answer",
        " / ".join(labels),
        joined(markup("<td>{}</td>", cell) for cell in cells),
    )


def readout() -> Markup:
    """Return the place where the script writes the numbers of the token under the pointer."""
    return markup('<div id="readout" class="scripted" role="status" aria-live="polite"></div>')
