# SPDX-License-Identifier: MIT
"""The study of what foretells success: its statistics on known cases, and a short run."""

import json

import numpy as np
import pytest

from guide_ext.experiments import predictor
from guide_ext.experiments.embedded.evaluate import Task
from guide_ext.influence import FORMS


def test_areas():
    success = np.array([True, False, True, False, True, False])
    assert predictor.area(np.array([3.0, 1.0, 3.0, 1.0, 3.0, 1.0]), success) == 1.0
    assert predictor.area(np.ones(6), success) == 0.5
    assert np.isnan(predictor.area(np.ones(2), np.array([True, True])))


def test_length_foretells_nothing_within_one_length():
    bucket = np.arange(60) // 10
    success = np.arange(60) % 10 < 9 - bucket
    longer_fails = 1.0 / (1 + bucket)
    assert predictor.area(longer_fails, success) > 0.6
    assert predictor.area_within(longer_fails, success, bucket) == 0.5
    assert np.isnan(predictor.area_within(longer_fails, np.ones(60, dtype=bool), bucket))


def test_a_short_run():
    observations = predictor.observe(Task.FRENCH, 24, 5, batch_size=12)
    assert set(observations.predictors) == {*FORMS, predictor.LENGTH}
    for values in observations.predictors.values():
        assert values.shape == observations.success.shape == (24,)
        assert ((values > 0) & (values <= 1)).all()
    rows = predictor.summarize(observations)
    for row in rows:
        low, high = row["auc_interval"]
        assert 0 <= low <= row["auc"] <= high <= 1


def test_command(tmp_path, capsys):
    path = tmp_path / "predictor.json"
    assert predictor.main(["--documents", "12", "--out", str(path)]) == 0
    result = json.loads(path.read_text())
    assert [task["task"] for task in result["tasks"]] == ["french", "json"]
    assert predictor.markdown(result) == capsys.readouterr().out


@pytest.mark.parametrize("name", ["documents", "seed"])
def test_wrong_options(name):
    with pytest.raises(SystemExit):
        predictor.main([f"--{name}", "many"])
