# SPDX-License-Identifier: MIT
import pytest

from guide_ext.studies.plan import RunSettings
from guide_ext.studies.run import runner
from guide_ext.studies.run.pairs import answer_pairs


class Answers:
    """An engine that finds every needle with Δ alone."""

    def run(self, cells):
        return [
            {"text": cell.row.answer if cell.condition.delta else "no", "new_tokens": 1}
            for cell in cells
        ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "run"
    settings = RunSettings(studies=("needle",), documents=2, deltas=(0.0, 2.0))
    runner.run_studies(settings, path, engine=Answers())
    return path


def test_pairs_are_of_one_row_and_spread_over_all(run):
    pairs = answer_pairs(run, delta=2.0)
    assert [pair.row.id for pair in pairs] == ["needle-4", "needle-7", "needle-10"]
    for pair in pairs:
        assert (pair.plain, pair.guided) == ("no", pair.row.answer)
        assert (pair.plain_succeeds, pair.guided_succeeds) == (False, True)
    assert len(answer_pairs(run, delta=2.0, count=99)) == 12


def test_what_is_not_there_is_said(run, tmp_path):
    with pytest.raises(ValueError, match="study must be one of the run's, needle, got json"):
        answer_pairs(run, delta=2.0, studies=("json",))
    with pytest.raises(ValueError, match="got none at 3 in"):
        answer_pairs(run, delta=3.0)
    with pytest.raises(ValueError, match=r"run must be a folder with a manifest\.json"):
        answer_pairs(tmp_path, delta=2.0)


def test_unknown_kinds_are_refused_before_anything_is_written(tmp_path):
    settings = RunSettings(studies=("needle",), documents=1, kinds=("rhyme",))
    with pytest.raises(ValueError, match="kinds must be among those of the studies, which have no"):
        runner.run_studies(settings, tmp_path / "run", engine=Answers())
    assert not (tmp_path / "run" / "manifest.json").exists()
