# SPDX-License-Identifier: MIT
"""Pages of saved results, and the tables of the README and docs/benchmarks.md.

    python benchmarks/report.py publish bench_results/attention.json
    python benchmarks/report.py tables

`publish` copies results and their page to `benchmarks/results/` and points the tables at them (of
`growth` it draws `docs/growth.png`, too); `tables` writes the tables anew from the results that
they name. Nothing here measures.
"""

from __future__ import annotations

import argparse
import json
import os.path
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import report_attention
import report_generate
import report_growth
import report_headlines
import report_influence
import report_learned
import report_study
from facts import FORCED

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# What has tables, between `<!-- bench KIND: RESULTS -->` and `<!-- /bench -->`. KIND is one of
# KINDS, or `headlines`: the six rows of the README, from several results.
PAGES = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "learning.md")
KINDS: dict[str, ModuleType] = {
    "attention": report_attention,
    "generate": report_generate,
    "growth": report_growth,
    "influence": report_influence,
    "learned": report_learned,
    "study": report_study,
}
TITLES = {
    "attention": "The op on a CPU",
    "generate": "Whole models on a CPU",
    "growth": "How time and memory grow",
    "influence": "Influence in a forward pass on a CPU",
    "learned": "What a learned Δ is worth",
    "study": "A study of a real model on a CPU",
}
IDLE_LOAD = 0.5  # above, the tables say so
_MARKED = re.compile(r"<!-- bench (\w+): ([^>]+?) -->\n.*?<!-- /bench -->", re.DOTALL)


def summary_lines(result: dict[str, Any]) -> list[str]:
    """Write the table of ratios."""
    lines: list[str] = KINDS[result["kind"]].summary(result)
    return lines


def page(result: dict[str, Any]) -> str:
    """Write all that was saved, as a page."""
    of_kind = KINDS[result["kind"]]
    lines = [f"# {TITLES[result['kind']]}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in result["machine"].items()]
    if "seconds" in result:
        lines.append(f"| the whole run | {result['seconds'] / 60:.0f} minutes |")
    for threads, found in result.get("products", {}).items():
        rates = ", ".join(f"{n.removeprefix('torch.mm ')} {rate:.0f}" for n, rate in found.items())
        lines.append(f"| torch.mm at best, threads: {threads} | {rates} |")
    lines += ["", "## Summary", "", *of_kind.summary(result), "", of_kind.EXPLANATION]
    if result.get("not_run"):
        lines += [f"Out of time before: {', '.join(result['not_run'])}.", ""]
    lines += ["## Every figure", *of_kind.details(result)]
    return "\n".join(lines) + "\n"


def rounded(value: Any) -> Any:
    """Keep six digits of every number, so that results stay small enough to be committed.

    Example:
        >>> rounded({"a": [0.123456789, 3]})
        {'a': [0.123457, 3]}

    """
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


def slug(machine: dict[str, str]) -> str:
    """Name a machine in a file's name.

    Example:
        >>> slug({"processor": "AMD EPYC", "processor family, model": "26, 2", "cores": "2"})
        'cpu-amd-epyc-26-2-2-cores'
        >>> slug({"processor": "AMD EPYC", "cores": "2", "forced instruction set": "portable"})
        'cpu-amd-epyc-2-cores-forced-portable'

    """
    names = ("processor", "processor family, model", "cores")
    words = " ".join([*(machine[name] for name in names if name in machine), "cores"])
    if FORCED in machine:
        words += f" forced {machine[FORCED]}"
    return "cpu-" + re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def with_tables(text: str, folder: Path = ROOT, root: Path = ROOT) -> str:
    """Write every marked table of a text anew, from the results that its marker names.

    Results of several machines give one table each, with a heading that names the processor; the
    headlines are one table, whose rows do.

    Args:
        text: Of a page.
        folder: Where the page lies: links lead from there.
        root: Where the paths of the markers begin.

    """

    def table(marked: re.Match[str]) -> str:
        kind, paths = marked[1], marked[2].split()
        results = [json.loads((root / path).read_text()) for path in paths]
        if kind == "headlines":
            rows = [
                (row, result["machine"])
                for result in results
                for row in KINDS[result["kind"]].headlines(result)
            ]
            lines = report_headlines.table(rows)
        else:
            lines = []
            for result in results:
                if len(results) > 1:
                    lines += [*([""] if lines else []), f"**{processor(result['machine'])}**", ""]
                lines += KINDS[kind].short_table(result)
        links = [os.path.relpath((root / path).with_suffix(".md"), folder) for path in paths]
        begin = f"<!-- bench {kind}: {marked[2]} -->"
        return "\n".join([begin, "", *lines, "", *_sources(results, links), "", "<!-- /bench -->"])

    return _MARKED.sub(table, text)


def processor(machine: dict[str, str]) -> str:
    """Name the processor of a machine and the instructions that served the calls.

    Example:
        >>> processor({"processor": "AMD EPYC", "processor family, model": "25, 1", "cores": "2",
        ...            "instruction set": "avx2"})
        'AMD EPYC (family 25, model 1), AVX2, 2 cores'

    """
    name = machine["processor"]
    if details := machine.get("processor family, model"):
        family, model = details.split(", ")
        name += f" (family {family}, model {model})"
    instructions = report_headlines.instruction_set(machine)
    return f"{name}, {instructions}, {report_headlines.cores(machine)}"


def _sources(results: list[dict[str, Any]], links: list[str]) -> list[str]:
    """Name the machines, with links to every figure; one line for what is of one machine."""
    pages: dict[str, list[str]] = {}
    loads: dict[str, float] = {}
    for result, link in zip(results, links, strict=True):
        machine = result["machine"]
        name = f"{processor(machine)}, {machine.get('memory', '?')}, torch {machine['torch']}"
        every = "every figure" if len(results) == 1 else f"every figure of {result['kind']}"
        pages.setdefault(name, []).append(f"[{every}]({link})")
        load = float(machine.get("load before", 0.0))
        loads[name] = max(load, loads.get(name, 0.0))
    return [
        f"{name}: {', '.join(of_machine)}."
        + (
            f" **The machine was not idle: load {loads[name]:.1f} before the run.**"
            if loads[name] > IDLE_LOAD
            else ""
        )
        for name, of_machine in pages.items()
    ]


def pointed_at(text: str, target: str, kind: str) -> str:
    """Let the markers of a text name other results of a kind, in the place of those they name.

    A marker that names several results of that kind, of several machines, stays as it is.

    Example:
        >>> pointed_at("<!-- bench headlines: r/a-growth.json r/a-influence.json -->",
        ...            "r/b-growth.json", "growth")
        '<!-- bench headlines: r/b-growth.json r/a-influence.json -->'
        >>> pointed_at("<!-- bench growth: r/a-growth.json r/c-growth.json -->",
        ...            "r/b-growth.json", "growth")
        '<!-- bench growth: r/a-growth.json r/c-growth.json -->'

    """

    def marker(found: re.Match[str]) -> str:
        new, count = re.subn(rf"\S+-{kind}\.json", target, found[0])
        return new if count == 1 else found[0]

    return re.sub(r"<!-- bench \w+: [^>]+-->", marker, text)


def publish(source: Path) -> Path:
    """Copy results and their page to where they are committed; return the place of the results."""
    result = json.loads(source.read_text())
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{slug(result['machine'])}-{result['kind']}.json"
    target.write_text(json.dumps(result, separators=(",", ":")) + "\n")
    target.with_suffix(".md").write_text(page(result))
    if result["kind"] == "growth" and FORCED not in result["machine"]:
        report_growth.draw(result, ROOT / "docs" / "growth.png")
    return target


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("tables")
    commands.add_parser("publish").add_argument("results", type=Path, nargs="+")
    options = parser.parse_args()
    texts = {path: path.read_text(encoding="utf-8") for path in PAGES}
    for source in options.results if options.command == "publish" else ():
        target = publish(source)
        result = json.loads(target.read_text())
        relative = target.relative_to(ROOT)
        if FORCED not in result["machine"]:  # pages show what a machine does by itself
            texts = {
                path: pointed_at(text, str(relative), result["kind"])
                for path, text in texts.items()
            }
        sys.stdout.write(f"{relative}, {relative.with_suffix('.md')}\n")
    for path, text in texts.items():
        path.write_text(with_tables(text, path.parent, ROOT), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
