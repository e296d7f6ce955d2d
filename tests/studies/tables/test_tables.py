# SPDX-License-Identifier: MIT
"""Tables of studies against what can be counted by hand in the shards of a run."""

import json
import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from guide_ext import integration
from guide_ext.influence.forms import FORMS
from guide_ext.integration.influence.measure import norm_ratios
from guide_ext.studies.cells import ANSWER
from guide_ext.studies.measurement import INFLUENCE
from guide_ext.studies.norms import NORM_RATIOS, QUANTILES
from guide_ext.studies.plan import RunSettings
from guide_ext.studies.registry import TASKS
from guide_ext.studies.run import progress, runner
from guide_ext.studies.run.engine import Marks, marked_prompt
from guide_ext.studies.tables import metrics, statistics

SETTINGS = RunSettings(
    studies=("french", "needle", "json", "predictor", "norms", "delta_limit"),
    documents=1, samples=2, deltas=(0.0, 2.0), batch_size=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return tables by name, the plan with every record, and the whole result."""
    path = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_RESAMPLES", 50)  # intervals have tests of their own
        result = runner.run_studies(SETTINGS, path)
    made = {}
    for table in result["tables"]:
        made[table["name"]] = [dict(zip(table["columns"], r, strict=True)) for r in table["rows"]]
    return made, progress.read_plan(path), result


def answers(plan, task, delta=0.0, style="plain", study=None):
    """Yield row and text of the answers of a study."""
    for cell in plan.by_study[study or task]:
        record = plan.records[cell.key]
        if cell.kind == ANSWER and (record["task"], record["delta"], record["style"]) == (
            task, delta, style,
        ):  # fmt: skip
            yield cell.row, record["text"]


def test_every_cell_is_done(run):
    _, plan, result = run
    assert all(not plan.is_missing(cell) for cell in plan.cells.values())
    assert result["failures"] == []
    assert all(p["done"] == p["total"] for p in result["progress"].values())


def test_french(run):
    made, plan, _ = run
    assert [row["condition"] for row in made["french"]] == [
        "Δ = 0", "Δ = 2", "upper case", "“Important:”"
    ]  # fmt: skip
    for row in made["french"]:
        found = list(answers(plan, "french", row["delta"], row["style"]))
        assert row["answers"] == len(found) == 12
        assert row["documents"] == 6
        share = sum(metrics.language(text) == "fr" for _, text in found) / 12
        assert row["in_french"] == pytest.approx(share, abs=1e-6)
        right = sum(text.strip() == asked.answer for asked, text in found) / 12
        assert row["right"] == pytest.approx(right, abs=1e-6)
        assert row["right_low"] <= row["right"] <= row["right_high"]


def test_lengths_add_up(run):
    made, _, _ = run
    for name, value in (("french", "in_french"), ("json", "jaccard")):
        for row in made[name]:
            parts = [
                part for part in made[f"{name}_by_length"] if part["condition"] == row["condition"]
            ]
            assert [p["length_to"] for p in parts] == [64, 128, 192, 256, 320, 384]
            assert sum(part["answers"] for part in parts) == row["answers"]
            total = sum(part[value] * part["answers"] for part in parts)
            assert total / row["answers"] == pytest.approx(row[value], abs=1e-5)


def test_needle_grid_adds_up(run):
    made, plan, _ = run
    for row in made["needle"]:
        found = [
            text.strip() == asked.answer for asked, text in answers(plan, "needle", row["delta"])
        ]
        assert row["found"] == pytest.approx(np.mean(found), abs=1e-6)
        grid = [cell for cell in made["needle_grid"] if cell["delta"] == row["delta"]]
        assert sum(cell["answers"] for cell in grid) == row["answers"]
        assert sum(cell["found"] * cell["answers"] for cell in grid) == sum(found)
        for cell in grid:
            assert cell["depth_to"] - cell["depth_from"] == pytest.approx(0.2)


def test_json(run):
    made, plan, _ = run
    for row in made["json"]:
        jaccards = []
        for asked, text in answers(plan, "json", row["delta"], row["style"]):
            try:
                keys = set(json.loads(text))
            except ValueError:
                keys = None
            jaccards.append(
                0.0 if keys is None else len(keys & set(asked.keys)) / len(keys | set(asked.keys))
            )
        assert row["jaccard"] == pytest.approx(np.mean(jaccards), abs=1e-6)


def test_what_was_measured(run):
    """The shard of a batch of padded rows holds what each prompt alone gives."""
    _, plan, _ = run
    model, tokenizer = integration.load_embedded()
    cells = [cell for cell in plan.cells.values() if cell.kind == INFLUENCE.kind][::7]
    for cell in cells:
        prompt = [{"role": "user", "content": marked_prompt(cell, Marks.GROUP)}]
        inputs = integration.encode(model, tokenizer, prompt, delta=0.0)
        for form in FORMS:
            found = integration.influence(model, inputs, form=form).values[0, :, 0]
            wanted = found[:, -TASKS[cell.row.task].end_tokens :].mean(1).tolist()
            assert plan.records[cell.key]["levels"][form] == pytest.approx(wanted, abs=1e-5)


def test_norms(run):
    made, plan, _ = run
    model, tokenizer = integration.load_embedded()
    ratios = defaultdict(list)
    for cell in plan.cells.values():
        if cell.kind == NORM_RATIOS.kind:
            prompt = [{"role": "user", "content": marked_prompt(cell)}]
            inputs = integration.encode(model, tokenizer, prompt)
            for layer, values in enumerate(norm_ratios(model, inputs)[0], 1):
                ratios[layer] += values.tolist()
    assert [row["layer"] for row in made["norms"]] == sorted(ratios)
    for row in made["norms"]:
        values = np.array(ratios[row["layer"]])
        assert row["tokens"] == len(values)
        for name, share in QUANTILES.items():
            wanted = np.quantile(values, share, method="inverted_cdf")
            assert row[name] == pytest.approx(wanted, rel=0.04)  # bins of 2.3 %


def test_norm_ratios_against_hooks():
    """|E| and |U| read off a plain model by its own modules' names."""
    model, tokenizer = integration.load_embedded()
    inputs = integration.encode(model, tokenizer, ["Summarize: the cat.", "The dog sleeps."])
    norms = []
    handles = []
    for layer in model.model.layers:
        handles += [
            layer.register_forward_pre_hook(lambda m, args: norms.append(args[0].norm(dim=-1))),
            layer.self_attn.register_forward_hook(
                lambda m, args, out: norms.append(out[0].norm(dim=-1))
            ),
        ]
    with torch.no_grad():
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    for handle in handles:
        handle.remove()
    wanted = torch.stack([e / u for e, u in zip(norms[::2], norms[1::2], strict=True)], dim=1)
    found = norm_ratios(model, inputs)
    present = inputs["attention_mask"].bool()[:, None].expand_as(found)
    assert torch.allclose(found[present], wanted[present], rtol=1e-4)
    assert found[~present].isnan().all()


def test_predictor(run):
    made, plan, _ = run
    rows = made["predictor"]
    assert [row["predictor"] for row in rows if row["task"] == "json"] == [
        "influence", "exact", "authors", "rollout", "raw", "1 / length"
    ]  # fmt: skip
    for row in rows:
        assert row["cases"] == (12 if row["task"] == "french" else 6)
    found = list(answers(plan, "french", study="predictor"))
    success = np.array([metrics.language(text) == "fr" for _, text in found])
    lengths = np.array([1 / asked.tokens for asked, _ in found])
    row = next(r for r in rows if (r["task"], r["predictor"]) == ("french", "1 / length"))
    pairs = [(a > b) + 0.5 * (a == b) for a in lengths[success] for b in lengths[~success]]
    if pairs:
        assert row["auc"] == pytest.approx(np.mean(pairs), abs=1e-6)
        wanted = np.corrcoef(lengths, success)[0, 1]
        assert row["correlation"] == pytest.approx(wanted, abs=1e-6)


def test_delta_limit_and_its_samples(run):
    made, _, result = run
    assert [row["delta"] for row in made["delta_limit"]] == [0, 1, 2, 3, 5, 7, 9]
    worst = made["delta_limit"][-1]
    assert worst["well_formed"] < 0.2 < made["delta_limit"][0]["well_formed"]
    assert {sample["delta"] for sample in result["samples"]} == {0, 1, 2, 3, 5, 7, 9}


def test_no_nan_in_any_table(run):
    _, _, result = run
    for table in result["tables"]:
        for row in table["rows"]:
            assert len(row) == len(table["columns"])
            assert all(not isinstance(v, float) or math.isfinite(v) for v in row)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Return the folder of a tiny encoder with random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]",
               "sep_token": "[SEP]", "mask_token": "[MASK]"}  # fmt: skip
    words = ["le", "la", "un", "une", "chat", "chien", "dort", ".", "the", "cat", "dog", "sleeps"]
    vocabulary = {word: i for i, word in enumerate([*special.values(), *words])}
    made = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, **special)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2,
                        num_attention_heads=2, intermediate_size=64)  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return str(folder)


def test_bertscore(encoder):
    pytest.importorskip("bert_score")
    same, other = metrics.bert_scores(
        ["le chat dort", "the dog sleeps"], ["le chat dort"] * 2, metrics.Encoder(encoder, 2)
    )
    assert same == pytest.approx(1.0, abs=1e-5)
    assert other < 0.95
    with pytest.raises(ValueError, match="bertscore layer must be given"):
        metrics.bert_scores(["a"], ["a"], metrics.Encoder(encoder))


def test_quality_with_references(encoder, tmp_path):
    """A run over a data set with references, loaded by its name through the library."""
    pytest.importorskip("bert_score")
    texts = tmp_path / "texts"
    texts.mkdir()
    lines = [
        {"body": f"The {animal} sleeps in the barn.", "summary": f"Le {animal} dort."}
        for animal in ("cat", "dog", "bird", "fox")
    ]
    (texts / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    settings = RunSettings(
        studies=("french",), data=f"hub:{texts}", text_column="body", reference_column="summary",
        documents=4, samples=3, deltas=(0.0, 1.0), windows=1, bertscore=encoder, bertscore_layer=2,
    )  # fmt: skip
    result = runner.run_studies(settings, tmp_path / "run")
    made = {table["name"]: table for table in result["tables"]}
    (row,) = made["french_quality"]["rows"]
    delta, pairs, rate = row[:3]
    assert delta == 1.0
    assert pairs <= 12
    assert rate is None or 0 <= rate <= 1
    plan = progress.read_plan(tmp_path / "run")
    french = sum(metrics.language(record["text"]) == "fr" for record in plan.records.values())
    shares = made["french_quality_density"]["rows"]
    total = sum(row[3] for row in shares if row[0] == "french")
    assert total == pytest.approx(float(french > 0), abs=1e-4)
