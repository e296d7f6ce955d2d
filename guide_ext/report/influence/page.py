# SPDX-License-Identifier: MIT
"""One self-contained page about the Influence of one prompt: text, curve and heat maps in colour.

The page loads nothing from elsewhere, and no token can act as markup. Without JavaScript it shows
the last layer; with JavaScript any layer and group, by mouse or by keyboard.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from guide_ext.influence.record import Record, visible
from guide_ext.report.document import asset, document, inert_json, markup, nested, sha256_source
from guide_ext.report.influence import parts
from guide_ext.report.influence.plots import positions
from guide_ext.support.extras import check_installed
from guide_ext.support.files import write_text

SUFFIXES = (".html", ".png", ".json")


def influence_html(record: Mapping[str, Any]) -> str:
    """Make the page.

    Args:
        record: What `guide_ext.integration.compare.measure_prompt` returned, or the same read
            from a file.

    Returns:
        A whole HTML document.

    Raises:
        ValueError: If it is not such a record.

    Example:
        >>> from guide_ext import integration as guide
        >>> from guide_ext.integration.compare import measure_prompt
        >>> model, tokenizer = guide.load_embedded()
        >>> prompt = "<!!->Summarize in French<-!!>: the cat sleeps."
        >>> record = measure_prompt(model, tokenizer, prompt, max_new_tokens=4)
        >>> influence_html(record).splitlines()[0]
        '<!DOCTYPE html>'

    """
    return str(_page(Record.read(record)))


def _page(read: Record) -> Markup:
    style = asset("guide_ext.report", "base.css") + asset(__package__, "influence.css")
    script = asset(__package__, "values.js") + asset(__package__, "influence.js")
    # Even if a token escaped its quotes, the browser would run this one script only.
    policy = f"style-src 'unsafe-inline'; img-src data:; script-src {sha256_source(script)}"
    body = markup(
        """{header}
<main>
{summary}
{controls}
{texts}
{positions}
{numbers}
</main>
{readout}
<script type="application/json" id="data">{data}</script>
<script type="module">{script}</script>""",
        header=parts.header(read),
        summary=parts.summary(read),
        controls=parts.controls(read),
        texts=parts.texts(read),
        positions=positions(read),
        numbers=parts.numbers(read),
        readout=parts.readout(),
        data=inert_json(_data(read)),
        script=script,
    )
    return document(f"Influence – {read.model}", policy, style, body)


class InfluenceReport:
    """A record that notebooks show as a page, and that can be saved to files.

    Args:
        record: What `guide_ext.integration.compare.measure_prompt` returned, or the same read
            from a file.

    Raises:
        ValueError: If it is not such a record.

    Example:
        >>> from guide_ext import integration as guide
        >>> from guide_ext.integration.compare import measure_prompt
        >>> model, tokenizer = guide.load_embedded()
        >>> prompt = "<!!->Summarize in French<-!!>: the cat sleeps."
        >>> report = InfluenceReport(measure_prompt(model, tokenizer, prompt, max_new_tokens=4))
        >>> report
        InfluenceReport('model', groups=['marked'], runs=['plain', 'guided'])

    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._read = Record.read(record)
        self.record = dict(record)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a page, a picture or the record, depending on the suffix of the file.

        Args:
            path: Ends in ``.html``, ``.png`` or ``.json``. An existing file is replaced, and no
                file is ever half written.

        Returns:
            The path.

        Raises:
            ValueError: If it has another suffix.
            MissingPackageError: If a picture is wanted and matplotlib is not installed.
            OSError: If it cannot be written.

        """
        path = Path(path)
        kind = checked_suffix(path)
        if kind == ".html":
            write_text(path, influence_html(self.record))
        elif kind == ".json":
            write_text(path, json.dumps(self.record, allow_nan=False) + "\n")
        else:
            from guide_ext.report.influence.figure import draw_influence

            draw_influence(self.record, path)
        return path

    def _repr_html_(self) -> str:
        """Return the page in a frame, so that its style and the notebook's stay apart."""
        frame = markup(
            """<iframe srcdoc="{}" title="Influence"
onload="this.style.height=this.contentDocument.documentElement.scrollHeight+'px'"
style="width:100%;height:60rem;border:0"></iframe>""",
            nested(_page(Record.read(self.record))),
        )
        return str(frame)

    def __repr__(self) -> str:
        """Return the names of model, groups and runs."""
        runs = [run.name for run in self._read.runs]
        groups = list(self._read.groups)
        return f"InfluenceReport({self._read.model!r}, groups={groups}, runs={runs})"


def checked_suffix(path: Path) -> str:
    """Return the suffix of a path that `InfluenceReport.save` can write, in lower case.

    Raises:
        ValueError: If it has another suffix.
        MissingPackageError: If a picture is wanted and matplotlib is not installed.

    Example:
        >>> checked_suffix(Path("report.HTML"))
        '.html'

    """
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise ValueError(f"path must end in {', '.join(SUFFIXES)}, got {str(path)!r}")
    if kind == ".png":
        check_installed("matplotlib", "to draw pictures")
    return kind


def _data(record: Record) -> dict[str, Any]:
    """Return what the script reads."""
    groups, levels = range(len(record.groups)), range(record.layers + 1)
    return {
        "groups": [visible(name) for name in record.groups],
        "layers": record.layers,
        "prompt": record.prompt_tokens,
        "longest": record.longest,
        "compared": record.compared_tokens,
        # Ends of scales: for each layer, and for all layers together.
        "tops": [[record.top(group, level) for level in levels] for group in groups],
        "top": [record.top(group) for group in groups],
        "differenceTops": [
            [record.difference_top(group, level) for level in levels] for group in groups
        ],
        "differenceTop": [record.difference_top(group) for group in groups],
        "ranges": [record.ranges(group) for group in groups],
        "runs": [
            {
                "label": run.label,
                "tokens": [token.label for token in run.tokens],
                "values": run.values,
            }
            for run in record.runs
        ],
    }
