# SPDX-License-Identifier: MIT
"""Tables of the benchmark of the op on a CPU, from what it saved; nothing here measures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ceilings import COPY, READ, peak, product_name
from cpu_attention import (
    COLUMNS,
    COLUMNS_FOLDED,
    EAGER,
    FLEX,
    OURS,
    OURS_PLAIN,
    SDPA,
    SDPA_BIAS,
    SDPA_BIAS_FOLDED,
    SDPA_FOLDED,
    ours,
)
from report_headlines import Headline

Record = dict[str, Any]
TINY = 32  # tokens; below, the time of a call is what it takes to begin one

# Heads of the columns, and whose time over ours they hold: the first that there is.
_PEERS = {
    "SDPA": (SDPA,),
    "SDPA folded": (SDPA_FOLDED,),
    "SDPA, bias": (SDPA_BIAS, SDPA_BIAS_FOLDED),
    "columns": (COLUMNS, COLUMNS_FOLDED),
    "Flex": (FLEX,),
    "eager": (EAGER,),
}
# What docs/benchmarks.md shows: long and short prefill, decode, every dtype, and what is rarer.
SHOWN = (
    "fp32-b1-h8-kv8-q1-k1-d64-full",
    "fp32-b1-h8-kv8-q16-k16-d64-causal",
    "fp32-b1-h8-kv8-q512-k512-d64-causal",
    "bf16-b1-h8-kv8-q512-k512-d64-causal",
    "fp32-b1-h32-kv32-q2048-k2048-d128-full",
    "fp32-b1-h32-kv32-q2048-k2048-d128-causal",
    "bf16-b1-h32-kv32-q2048-k2048-d128-full",
    "bf16-b1-h32-kv32-q2048-k2048-d128-causal",
    "fp16-b1-h32-kv32-q2048-k2048-d128-causal",
    "bf16-b1-h32-kv8-q4096-k4096-d128-causal",
    "fp32-b1-h32-kv8-q1-k4096-d128-causal",
    "bf16-b1-h32-kv8-q1-k4096-d128-causal",
    "fp32-b1-h32-kv8-q1-k32768-d128-causal",
    "bf16-b1-h32-kv8-q1-k32768-d128-causal",
    "fp32-b1-h8-kv2-q8-k4096-d128-causal",
    "bf16-b1-h8-kv2-q8-k4096-d128-causal",
    "fp32-b1-h8-kv2-q63-k4096-d128-causal",
    "bf16-b1-h8-kv2-q63-k4096-d128-causal",
    "fp32-b1-h8-kv8-q512-k512-d64-full-dense",
    "fp32-b1-h4-kv4-q4096-k4096-d64-causal-w256",
    "bf16-b1-h4-kv4-q4096-k4096-d64-causal-w256",
    "fp32-b1-h8-kv8-q2048-k2048-d64-causal-c8",
)
# What the README shows.
HEADLINES = (
    "fp32-b1-h32-kv32-q2048-k2048-d128-causal",
    "bf16-b1-h32-kv32-q2048-k2048-d128-causal",
    "bf16-b1-h32-kv8-q1-k4096-d128-causal",
)


def summary(result: dict[str, Any]) -> list[str]:
    """Write one line for each problem: our time, our share of the machine, and ratios."""
    lines = [
        f"| problem | threads | ours, ms | ± | of peak | surcharge | {' | '.join(_PEERS)} "
        "| MiB: ours | SDPA, bias | eager |",
        "|---|---:" + "|---:" * (4 + len(_PEERS) + 3) + "|",
    ]
    for record in result["records"]:
        rows = _rows(record)
        own = rows.get(_ours(record))
        if own is None:
            continue
        plain = rows.get(OURS_PLAIN)
        surcharge = f"{own['median_ms'] / plain['median_ms'] - 1:+.1%}" if plain else ""
        cells = [
            label(record),
            str(record["threads"]),
            _time(own["median_ms"]),
            _spread(own),
            _share(record, own),
            surcharge,
            *(_ratio(rows, names, own) for names in _PEERS.values()),
            _memory(own),
            *(_memory(_first(rows, names)) for names in (_PEERS["SDPA, bias"], (EAGER,))),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    failed = [
        f"- {record['problem']}, {name}: {_one_line(record['left_out'][name])}"
        for record in result["records"]
        for name in record["failed"]
    ]
    return [*lines, "", "Not timed, though they should be:", "", *failed] if failed else lines


EXPLANATION = """\
`ours` computes a bias and one channel of influence, or as many as the problem has. Columns behind
`surcharge` are **times of others over ours**: above 1 ours is faster. `surcharge`: ours over ours
without bias and influence. `SDPA` computes neither; `folded` has the query heads of a group as rows
of one head, so that it reads keys and values once; `SDPA, bias` has the bias in a dense mask and no
influence; `columns` appends the bias to the keys and the influence to the values (rounding both);
`Flex` is FlexAttention, compiled, with the influence appended; `eager` is the whole matrix. Where
heads are grouped, `SDPA, bias` and `columns` of decoding are folded. `±`: half of the way from the
10th to the 90th percentile, of the median. `of peak`: the share of
the nearer limit, which is this processor's fastest instruction for the dtype (fp16: for fp32) or,
where few rows meet many keys, the rate at which it reads memory; both measured before and after
each problem, at the same number of threads. MiB: peak
memory besides the inputs. A `dense attn_bias` and a window belong to the problem: all compute them,
SDPA as a dense mask, though it is told neither of bias nor of influence.
"""


def details(result: dict[str, Any]) -> list[str]:
    """Write every figure of every implementation."""
    lines: list[str] = []
    for record in result["records"]:
        threads = record["threads"]
        lines += ["", f"### {label(record)}, {threads} thread{'s' if threads > 1 else ''}", ""]
        if found := record["ceilings"]:
            rates = ", ".join(f"{name} {rate:.0f}" for name, rate in found.items())
            lines += [f"Machine: {rates}; load {record['load']:.1f}.", ""]
        lines += [
            "| implementation | ms | p10 – p90 | samples × calls | GFLOP/s | K, V: GB/s "
            "| of peak | of torch.mm, of copy | over ours | MiB | first call, s |",
            "|---|" + "---:|" * 10,
        ]
        rows = _rows(record)
        for name, row in rows.items():
            peak = row["peak_bytes"]
            cells = [
                name,
                _time(row["median_ms"]),
                f"{_time(row['p10_ms'])} – {_time(row['p90_ms'])}",
                f"{len(row['samples_ms'])} × {record['repeats'][name]}",
                f"{1e3 * row['tflops']:.0f}",
                f"{record['key_value_bytes'] / row['median_ms'] / 1e6:.1f}",
                _share(record, row),
                _share_of_torch(record, row, result["products"]),
                _ratio(rows, (name,), rows.get(_ours(record))),
                "not measured" if peak is None else f"{peak / 2**20:.0f}",
                f"{row['first_call_seconds']:.1f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        for name, why in record["left_out"].items():
            lines.append(f"| {name} | not timed: {_one_line(why)} |{' |' * 9}")
    return lines


def short_table(result: dict[str, Any], problems: Sequence[str] = SHOWN) -> list[str]:
    """Write the short table, of the problems that a reader looks for, on all cores."""
    lines = [
        "| | ours, ms | of peak | SDPA alone | columns | Flex | eager + Influence |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for record, rows in _on_all_cores(result, problems):
        own = rows[_ours(record)]
        alone = _ratio(rows, (SDPA_FOLDED, SDPA), own)
        if SDPA_FOLDED in rows:
            alone += f" ({_ratio(rows, (SDPA,), own)})"
        cells = [
            label(record),
            _time(own["median_ms"]),
            _share(record, own),
            alone,
            *(_ratio(rows, _PEERS[name], own) for name in ("columns", "Flex", "eager")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def headlines(result: dict[str, Any], problems: Sequence[str] = HEADLINES) -> list[Headline]:
    """Return the rows of the README, on all cores."""
    return [
        Headline(
            f"attention, {label(record)}",
            f"{_time(rows[OURS]['median_ms'])} ms",
            _ratio(rows, (SDPA_FOLDED, SDPA), rows[OURS]),
            _ratio(rows, (EAGER,), rows[OURS]),
        )
        for record, rows in _on_all_cores(result, problems)
    ]


def label(record: Record) -> str:
    """Name a problem in words."""
    heads = str(record["num_heads"])
    if record["num_kv_heads"] != record["num_heads"]:
        heads += f"/{record['num_kv_heads']}"
    batch = f"{record['batch']} × " if record["batch"] > 1 else ""
    size = f"{record['dtype']}, {batch}{heads} heads of {record['head_dim']}"
    if record["kind"] == "decode":
        queries = f"{record['seqlen_q']} queries, " if record["seqlen_q"] > 1 else ""
        return f"decode {size}, {queries}{record['seqlen_k']} keys{_extras(record)}"
    mask = "causal" if record["is_causal"] else "full"
    if record["seqlen_q"] != record["seqlen_k"]:
        size += f", {record['seqlen_q']} queries"
        return f"rows {size}, {record['seqlen_k']} keys {mask}{_extras(record)}"
    if record["seqlen_k"] < TINY:
        tokens = f"{record['seqlen_k']} token{'s' if record['seqlen_k'] > 1 else ''}"
        return f"tiny {size}, {tokens} {mask}{_extras(record)}"
    return f"prefill {size}, {record['seqlen_k']} {mask}{_extras(record)}"


def _extras(record: Record) -> str:
    """Name what few problems have; older results do not know of it."""
    window, channels = record.get("window_left", -1), record.get("channels", 1)
    return (
        (f", window of {window}" if window >= 0 else "")
        + (", dense attn_bias" if record.get("has_dense_bias") else "")
        + (f", {channels} channels" if channels != 1 else "")
    )


def _on_all_cores(
    result: dict[str, Any], problems: Sequence[str]
) -> Iterator[tuple[Record, dict[str, Record]]]:
    """Find the problems among the results: the record of each and its rows by implementation."""
    most = max((record["threads"] for record in result["records"]), default=0)
    found = {r["problem"]: r for r in result["records"] if r["threads"] == most}
    for record in (found[name] for name in problems if name in found):
        rows = _rows(record)
        if _ours(record) in rows:
            yield record, rows


def _ours(record: Record) -> str:
    return ours(record.get("channels", 1))


def _rows(record: Record) -> dict[str, Record]:
    return {row["implementation"]: row for row in record["rows"]}


def _first(rows: dict[str, Record], names: Sequence[str]) -> Record | None:
    return next((rows[name] for name in names if name in rows), None)


def _ratio(rows: dict[str, Record], names: Sequence[str], own: Record | None) -> str:
    other = _first(rows, names)
    return "–" if other is None or own is None else f"{other['median_ms'] / own['median_ms']:.2f}"


def _share(record: Record, row: Record) -> str:
    """Return the share of the nearer limit: the fastest instruction, or the rate of reading."""
    found = record["ceilings"]
    return _nearer(record, row, peak(found, record["dtype"]), found.get(READ))


def _share_of_torch(record: Record, row: Record, products: dict[str, dict[str, float]]) -> str:
    """Return the share of the nearer of the best torch.mm and the rate of copying."""
    product = products.get(str(record["threads"]), {}).get(product_name(record["dtype"]))
    return _nearer(record, row, product, record["ceilings"].get(COPY))


def _nearer(record: Record, row: Record, flops: float | None, bytes_: float | None) -> str:
    limits = ((record["flop"], flops), (record["key_value_bytes"], bytes_))
    shares = [amount / row["median_ms"] / 1e6 / most for amount, most in limits if most]
    return f"{max(shares):.0%}" if shares else "–"


def _memory(row: Record | None) -> str:
    if row is None or row["peak_bytes"] is None:
        return "–"
    return f"{row['peak_bytes'] / 2**20:.0f}"


def _spread(row: Record) -> str:
    return f"{(row['p90_ms'] - row['p10_ms']) / 2 / row['median_ms']:.0%}"


def _time(milliseconds: float) -> str:
    digits = 3 if milliseconds < 1 else 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0
    digits = 4 if milliseconds < 0.01 else digits
    return f"{milliseconds:.{digits}f}"


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
