# SPDX-License-Identifier: MIT
"""Pages of saved results, and the table of the README; nothing here measures.

    python benchmarks/report.py publish bench_results/attention.json
    python benchmarks/report.py readme

`publish` copies results and their page to `benchmarks/results/` and points the README at them (of
`growth` it draws `docs/growth.png`, too);
`readme` writes the README's tables anew from the results that they name.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import report_attention
import report_generate
import report_growth
import report_influence

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
KINDS: dict[str, ModuleType] = {
    "attention": report_attention,
    "generate": report_generate,
    "growth": report_growth,
    "influence": report_influence,
}
TITLES = {
    "attention": "The op on a CPU",
    "generate": "Whole models on a CPU",
    "growth": "How time and memory grow",
    "influence": "Influence in a forward pass on a CPU",
}
IDLE_LOAD = 0.5  # above, the README says so
_MARKED = re.compile(r"<!-- bench (\w+): (\S+) -->\n.*?<!-- /bench -->", re.DOTALL)


def summary_lines(result: dict[str, Any]) -> list[str]:
    """Write the table of ratios."""
    lines: list[str] = KINDS[result["kind"]].summary(result)
    return lines


def page(result: dict[str, Any]) -> str:
    """Write all that was saved, as a page."""
    of_kind = KINDS[result["kind"]]
    lines = [f"# {TITLES[result['kind']]}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in result["machine"].items()]
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

    """
    names = ("processor", "processor family, model", "cores")
    words = " ".join([*(machine[name] for name in names if name in machine), "cores"])
    return "cpu-" + re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def with_tables(text: str, root: Path = ROOT) -> str:
    """Write every marked table of a text anew, from the results that its marker names."""

    def table(marked: re.Match[str]) -> str:
        kind, path = marked[1], marked[2]
        result = json.loads((root / path).read_text())
        machine, page_path = result["machine"], Path(path).with_suffix(".md").as_posix()
        source = (
            f"{machine['processor']}, {machine['cores']} cores, {machine.get('memory', '?')}, "
            f"torch {machine['torch']}: [every figure]({page_path})."
        )
        load = float(machine.get("load before", 0.0))
        if load > IDLE_LOAD:
            source += f" **The machine was not idle: load {load:.1f} before the run.**"
        lines = [f"<!-- bench {kind}: {path} -->", "", *KINDS[kind].readme(result), "", source]
        return "\n".join([*lines, "", "<!-- /bench -->"])

    return _MARKED.sub(table, text)


def publish(source: Path) -> Path:
    """Copy results and their page to where they are committed; return the place of the results."""
    result = json.loads(source.read_text())
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{slug(result['machine'])}-{result['kind']}.json"
    target.write_text(json.dumps(result, separators=(",", ":")) + "\n")
    target.with_suffix(".md").write_text(page(result))
    if result["kind"] == "growth":
        report_growth.draw(result, ROOT / "docs" / "growth.png")
    return target


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("readme")
    commands.add_parser("publish").add_argument("results", type=Path, nargs="+")
    options = parser.parse_args()
    readme = ROOT / "README.md"
    text = readme.read_text()
    for source in options.results if options.command == "publish" else ():
        target = publish(source)
        kind = json.loads(target.read_text())["kind"]
        relative = target.relative_to(ROOT)
        text = re.sub(rf"<!-- bench {kind}: \S+ -->", f"<!-- bench {kind}: {relative} -->", text)
        sys.stdout.write(f"{relative}, {relative.with_suffix('.md')}\n")
    readme.write_text(with_tables(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
