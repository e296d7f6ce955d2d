"""Made-up tables of every study, in the form that a run saves; the same on every call."""

import math

from pages import HOSTILE

LENGTHS = tuple((500 * index, 500 * (index + 1)) for index in range(8))
DELTAS = (0.0, 0.5, 1.0, 2.0, 5.0)
WORDINGS = (("upper case", "upper", -0.01), ("“Important:”", "important", 0.03))
CONTROLS = (
    ("said twice", "repeated", 0.0, 0.02),
    ("share ≥ 0.1", "share", 0.0, 0.05),
    ("Δ = 2 on question", "question", 2.0, -0.03),
    ("Δ = 2 on marked and question", "marked+question", 2.0, 0.04),
    ("Δ = 1 on other", "other", 1.0, -0.1),
    ("Δ = 2 on other", "other", 2.0, -0.4),
    ("Δ = 2, last third of the layers", "last third of the layers", 2.0, 0.01),
)
LAYERS = 32
PROMPT = "Summarize in French\n\nParis is the capital and largest city of France."


def interval(rate, count):
    """Return Wilson's interval."""
    z = 1.96
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return [round(max(0.0, middle - half), 6), round(min(1.0, middle + half), 6)]


def rated(rate, count):
    rate = round(min(1.0, max(0.0, rate)), 6)
    return [rate, *interval(rate, count)]


def _around(mean):
    return [float(f"{mean * factor:.5g}") for factor in (1.0, 0.9, 1.1)]


def hump(delta, base, top, best=2.0):
    """Rise to the best Δ, then fall."""
    if delta <= best:
        return base + (top - base) * math.sin(math.pi / 2 * delta / best)
    return top * math.exp(-0.45 * (delta - best))


def conditions(base, top, best=2.0, deltas=DELTAS):
    for delta in deltas:
        yield [f"Δ = {delta:g}", "plain", delta], hump(delta, base, top, best)
    for name, style, gain in WORDINGS:
        yield [name, style, 0.0], base + gain


def with_controls(base, top, best=2.0, deltas=DELTAS):
    """Yield what `conditions` does, then Δ on other parts and in some layers."""
    yield from conditions(base, top, best, deltas)
    for *cells, gain in CONTROLS:
        yield cells, base + gain


def table(name, title, columns, rows, note=""):
    return {
        "name": name, "title": title, "columns": columns.split(), "rows": rows, "note": note,
    }  # fmt: skip


def differences(name, base, top, best=2.0):
    """Make the table that compares every condition with Δ = 0 on the same rows."""
    rows = []
    for cells, rate in conditions(base, top, best):
        if cells[2] == 0 and cells[1] == "plain":
            continue
        gain = round(rate - base, 6)
        p = 0.001 if abs(gain) > 0.05 else 0.4
        rows.append([*cells, 400, 200, gain, gain - 0.04, gain + 0.04, p, min(1.0, 4 * p)])
    columns = "condition style delta answers documents difference difference_low difference_high"
    return table(name, "Beside Δ = 0", f"{columns} p p_corrected", rows)


def _by_length(name, title, column, base, top):
    rows = [
        [*cells, start, end, 200, *rated(rate * (1.35 - 0.1 * index), 200)]
        for cells, rate in conditions(base, top)
        for index, (start, end) in enumerate(LENGTHS)
    ]
    columns = f"condition style delta length_from length_to answers {column} {column}_low"
    return table(name, title, f"{columns} {column}_high", rows)


INSTRUCTIONS = {"bullets": 0.1, "the end": 0.3, "no commas": 0.5, "capitals": 0.0}


def _scored(delta, base):
    """Return obeys, does the task, and both, with their intervals."""
    obeys, does = hump(delta, base, min(1.0, 2 * base)), 0.95 - 0.15 * delta
    return [*rated(obeys, 120), *rated(does, 120), *rated(0.9 * obeys * does, 120)]


def _instructions(name, answers, head):
    ends = ("", "_low", "_high")
    scores = " ".join(f"{one}{end}" for one in ("obeys", "on_task", "success") for end in ends)
    yield table(
        name, "Instructions", f"{head} {scores}",
        [[*cells, answers, 120, *_scored(cells[2], rate)] for cells, rate in conditions(0.2, 0.4)],
    )  # fmt: skip
    yield table(
        f"{name}_by_kind", "Instructions, one by one", f"instruction family delta answers {scores}",
        [[kind, "format", delta, 120, *_scored(delta, base)]
         for kind, base in INSTRUCTIONS.items() for delta in DELTAS],
    )  # fmt: skip
    compared = "difference difference_low difference_high p p_corrected"
    yield table(
        f"{name}_differences", "Instructions: each condition beside Δ = 0", f"{head} {compared}",
        [["Δ = 1", "plain", 1.0, answers, 120, 0.1, 0.05, 0.15, 0.0002, 0.0004],
         ["Δ = 2", "plain", 2.0, answers, 120, 0.2, 0.15, 0.25, 0.0001, 0.0003],
         ["upper case", "upper", 0.0, answers, 120, -0.01, -0.04, 0.02, 0.5, 0.5]],
    )  # fmt: skip
    if name == "instruction":
        yield table(
            f"{name}_by_variant", "Instructions, by place and phrasing",
            f"place phrasing delta answers {scores}",
            [[place, phrasing, delta, 360, *_scored(delta, 0.2)]
             for place in ("first", "last") for phrasing in (1, 2, 3) for delta in DELTAS],
        )  # fmt: skip
        yield table(
            f"{name}_gains", "Instructions: the best Δ beside Δ = 0",
            f"instruction family delta answers success_at_zero {compared}",
            [[kind, "format", 2.0, 120, base, base - 0.2, base - 0.3, base - 0.1, 0.001, 0.004]
             for kind, base in INSTRUCTIONS.items()],
        )  # fmt: skip


def _tables(embedded):
    right = lambda rate: rated(0.8 * rate, 160) if embedded else [None] * 3  # noqa: E731
    head = "condition style delta answers documents"
    yield table(
        "french", "Summaries in French",
        f"{head} in_french in_french_low in_french_high well_formed right right_low right_high",
        [[*cells, 1600, 160, *rated(rate, 160), round(0.98 - 0.04 * cells[2], 6), *right(rate)]
         for cells, rate in conditions(0.294, 0.604)],
        "Intervals are over documents.",
    )  # fmt: skip
    yield _by_length("french_by_length", "By length", "in_french", 0.294, 0.604)
    yield differences("french_differences", 0.294, 0.604)
    yield table(
        "french_quality", "Win rate by BERTScore",
        "delta pairs win_rate win_rate_low win_rate_high",
        [[delta, 400, *rated(rate, 400)]
         for delta, rate in ((0.5, 0.505), (1.0, 0.507), (2.0, 0.49), (5.0, 0.36))],
    )  # fmt: skip
    centre = {"french": 0.72, "other": 0.63}
    density = []
    for language, middle in centre.items():
        shares = [math.exp(-(((0.51 + 0.02 * k - middle) / 0.035) ** 2)) for k in range(20)]
        total = sum(shares)
        density += [
            [language, round(0.5 + 0.02 * k, 2), round(0.52 + 0.02 * k, 2), round(s / total, 6)]
            for k, s in enumerate(shares)
        ]
    yield table(
        "french_quality_density", "BERTScore by language", "language from to share", density
    )
    yield table(
        "needle", "Needles found", f"{head} found found_low found_high",
        [[*cells, 2000, 200, *rated(rate, 200)]
         for cells, rate in with_controls(0.89, 0.959, 1.0, (0.0, 0.5, 1.0, 2.0))],
    )  # fmt: skip
    yield table(
        "needle_by_prompt", "By prompt",
        "prompt condition style delta answers found found_low found_high",
        [[prompt, *cells, 1000, *rated(rate - loss, 200)]
         for prompt, loss in (("the paper's", 0.0), ("plain", 0.1))
         for cells, rate in with_controls(0.89, 0.959, 1.0, (0.0, 0.5, 1.0, 2.0))],
    )  # fmt: skip
    grid = [
        [delta, start, end, 0.1 * depth, 0.1 * (depth + 1), 25,
         round(min(1.0, 0.99 - 0.018 * column * math.sin(math.pi * (depth + 0.5) / 10)
                   * (2.0 - delta)), 6)]
        for delta in (0.0, 0.5, 1.0)
        for column, (start, end) in enumerate(LENGTHS)
        for depth in range(10)
    ]  # fmt: skip
    grid[7][-1] = None
    yield table(
        "needle_grid", "By length and depth",
        "delta length_from length_to depth_from depth_to answers found", grid,
    )  # fmt: skip
    yield table(
        "needle_by_fact", "By fact",
        "fact prompt condition style delta answers found found_low found_high",
        [[fact, prompt, f"Δ = {delta:g}", "plain", delta, 170,
          *rated(hump(delta, base, top, 1.0), 170)]
         for fact, base, top in (("the paper's", 0.89, 0.959), ("colour", 0.7, 0.9))
         for prompt in ("the paper's", "plain")
         for delta in (0.0, 0.5, 1.0, 2.0)],
    )  # fmt: skip
    yield _by_length("needle_by_length", "By length", "found", 0.65, 0.72)
    yield differences("needle_differences", 0.89, 0.959, 1.0)
    yield table(
        "json", "JSON by a template",
        f"{head} jaccard jaccard_low jaccard_high authors authors_low authors_high exact right",
        [[*cells, 300, 300, *rated(rate, 300), *rated(0.92 * rate, 300), round(0.7 * rate, 6),
          round(0.5 * rate, 6) if embedded else None]
         for cells, rate in conditions(0.54, 0.70, 3.0, (0.0, 1.0, 2.0, 3.0, 5.0))],
    )  # fmt: skip
    yield _by_length("json_by_length", "By length", "jaccard", 0.54, 0.70)
    yield differences("json_differences", 0.54, 0.70)
    for name, title, base, top in (
        ("conflict_known", "Against what is known", 0.4, 0.9),
        ("conflict_two", "Two sentences", 0.5, 0.95),
    ):
        yield table(
            name, title, f"{head} won won_low won_high lost lost_low lost_high",
            [[*cells, 240, 240, *rated(rate, 240), *rated(0.9 - rate, 240)]
             for cells, rate in with_controls(base, top)
             if name == "conflict_two" or cells[1] != "other"],
        )  # fmt: skip
    yield table(
        "conflict_by_order", "By order",
        "marked_sentence condition style delta answers won won_low won_high lost lost_low "
        "lost_high",
        [[order, *cells, 120, *rated(rate + gain, 120), *rated(0.8 - rate - gain, 120)]
         for order, gain in (("first", -0.1), ("second", 0.1))
         for cells, rate in with_controls(0.4, 0.7)],
    )  # fmt: skip
    yield differences("conflict_known_differences", 0.4, 0.9)
    yield differences("conflict_two_differences", 0.5, 0.95)
    for name, answers in (("instruction", 2160), ("instruction_sampled", 2160)):
        yield from _instructions(name, answers, head)
    tasks = {"french": (0.754, 0.786), "needle": (0.573, 0.486), "json": (0.629, 0.696)}
    choices = []
    for task, best in (("needle", 2.0), ("json", 3.0)):
        for rule, delta, rate in (
            ("plain", 0.0, 0.6), ("best", best, 0.8), ("uppercase", 0.4, 0.65), ("1.5", 1.1, 0.7),
            ("2.0", None, None),
        ):  # fmt: skip
            values = [None] * 9
            if rate is not None:
                gain = round(rate - 0.8, 6)
                values = [delta, round(delta), 60, *rated(rate, 60), gain, gain - 0.1, gain + 0.1]
            choices.append([task, rule, 24, 3, *values])
    yield table(
        "chosen_delta", "A calibrated Δ",
        "asked rule prompts refused delta nearest documents success success_low success_high "
        "change change_low change_high",
        choices,
    )  # fmt: skip
    head = "by_method strength tried answers documents success success_low success_high"
    yield table(
        "methods", "Methods of the field",
        f"{head} difference difference_low difference_high p p_corrected",
        [["plain", "Δ = 0", None, 60, 30, *rated(0.6, 60), *[None] * 5],
         ["GUIDE", "Δ = 2", 4, 60, 30, *rated(0.9, 60), 0.3, 0.2, 0.4, 0.0001, 0.0002],
         ["PASTA", "α = 0.01", 3, 60, 30, *rated(0.65, 60), 0.05, -0.05, 0.15, 0.4, 0.4]],
    )  # fmt: skip
    yield table(
        "methods_strengths", "Methods of the field: every strength",
        "by_method strength answers documents success success_low success_high",
        [["GUIDE", f"Δ = {delta}", 60, 30, *rated(0.6 + 0.1 * delta, 60)] for delta in (1, 2, 3)],
    )  # fmt: skip
    predictors = []
    for task, (good, length) in tasks.items():
        found = {"influence": good + 0.004, "exact": good + 0.01, "authors": good}
        found |= {"rollout": 1 - length, "raw": 0.55, "1 / length": length}
        for name, auc in found.items():
            within = [None] * 3 if name == "1 / length" else [round(0.5 + (auc - 0.5) / 3, 6)]
            if within[0] is not None:
                within = [within[0], round(within[0] - 0.06, 6), round(within[0] + 0.06, 6)]
            auc = round(auc, 6)
            link = round(1.6 * (auc - 0.5), 6)
            predictors.append([
                task, name, 600, 0.35, auc, round(auc - 0.03, 6), round(auc + 0.03, 6), *within,
                link, round(link - 0.08, 6), round(link + 0.08, 6),
            ])  # fmt: skip
    intervals = " ".join(
        f"{name} {name}_low {name}_high" for name in ("auc", "auc_within", "correlation")
    )
    yield table(
        "predictor", "Influence as a predictor", f"task predictor cases success {intervals}",
        predictors,
    )  # fmt: skip
    norms = []
    for layer in range(1, LAYERS + 1):
        middle = 40 + 100 * math.sin(layer / LAYERS * math.pi)
        norms.append([layer, 40000, *(round(middle * k, 4) for k in (0.35, 0.7, 1.0, 1.5, 3.2))])
    yield table("norms", "|E| / |U|", "layer tokens p5 p25 median p75 p95", norms)
    yield table(
        "norms_by_length", "Influence and rollout by length",
        "predictor layer task length_from length_to cases mean mean_low mean_high",
        [[predictor, layer, task, start, end, 40, *_around(mean)]
         for predictor, scale, slope in (("influence", 4e-3, -0.7), ("rollout", 2e-4, 0.5))
         for layer in (8, LAYERS)
         for task, factor in (("french", 1.0), ("needle", 2.2), ("json", 3.5))
         for start, end in LENGTHS
         for mean in [scale * factor * (layer / 8) ** 0.8 * ((start + end) / 500) ** slope]],
    )  # fmt: skip
    yield table(
        "delta_limit", "Where Δ is too large",
        "delta answers in_french well_formed right right_low right_high repeated new_tokens",
        [[delta, 100, *rated(hump(delta, 0.294, 0.604), 100)[:1],
          round(1 / (1 + math.exp(delta - 6)), 6), *right(hump(delta, 0.294, 0.604)),
          round(1 / (1 + math.exp(6 - delta)), 6), round(120 - 9.5 * delta, 3)]
         for delta in (0.0, 2.0, 4.0, 5.0, 6.0, 7.0, 9.0)],
    )  # fmt: skip
    tuned = [
        ["sft", tokens, None, 1600, 160, *rated(rate, 160), 0.97, *right(rate)]
        for tokens, rate in ((131072, 0.31), (393216, 0.42), (786432, 0.55), (1179648, 0.66),
                             (1572864, 0.71))
    ]  # fmt: skip
    yield table(
        "sft", "GUIDE beside fine-tuning",
        "method tokens delta answers documents in_french in_french_low in_french_high well_formed "
        "right right_low right_high",
        [["plain", None, None, 1600, 160, *rated(0.294, 160), 0.98, *right(0.294)],
         ["guide", None, 2.0, 1600, 160, *rated(0.604, 160), 0.9, *right(0.604)], *tuned],
    )  # fmt: skip


def tables(*names, embedded=False):
    """Return a run's tables; those that are named, or all."""
    return {
        "kind": "guide_ext study tables",
        "format": 1,
        "model": "embedded" if embedded else "mistralai/Mistral-7B-Instruct-v0.1",
        "world": "embedded" if embedded else "documents",
        "settings": {"studies": ["french", "needle"], "documents": 160, "seed": 42},
        "failures": [
            {"study": "json", "row": "blbooks-17", "condition": "Δ = 5", "error": "20 s are over"}
        ],
        "tables": [one for one in _tables(embedded) if not names or one["name"] in names],
        "samples": [
            {"study": "delta_limit", "delta": delta, "prompt": PROMPT, "answer": answer}
            for delta, answer in ((2.0, "Paris est la capitale\net la plus grande ville."),
                                  (9.0, "1. 19th century, 19th century,"))
        ],
    }  # fmt: skip


def hostile():
    """Return tables in which every text wants to be markup."""
    found = tables()
    found["model"] = HOSTILE[0] + "Mistral-7B-Instruct"
    found["settings"] = {HOSTILE[6]: HOSTILE[0]}
    texts = iter(HOSTILE * 40)
    for table in found["tables"]:
        table["title"], table["note"] = next(texts), next(texts)
        for row in table["rows"]:
            if "condition" in table["columns"]:
                row[0] = next(texts)
    found["failures"] = [
        {"study": text, "row": text, "condition": text, "error": text} for text in HOSTILE
    ]
    found["samples"] = [
        {"study": study, "delta": 9.0, "prompt": text, "answer": text}
        for text in HOSTILE
        for study in ("delta_limit", text)
    ]
    return found
