# SPDX-License-Identifier: MIT
"""The picture of Influence."""

import pytest
from pages import hostile_record, pixels

from guide_ext.report.influence.page import InfluenceReport

pytest_plugins = ["influence_record"]


@pytest.mark.parametrize("hostile", [False, True])
def test_the_picture_shows_the_heat(record, tmp_path, hostile, recwarn):
    chosen = hostile_record(record) if hostile else record
    picture = pixels(InfluenceReport(chosen).save(tmp_path / "a.png"))
    height, width, _ = picture.shape
    assert width > 1000
    assert height > 1000
    is_orange = (picture[..., 0] > 0.8) & (picture[..., 1] < 0.75) & (picture[..., 2] < 0.4)
    assert is_orange.mean() > 0.003
    assert (picture.mean(-1) > 0.9).mean() > 0.3
    if not hostile:
        assert not [w for w in recwarn if "matplotlib" in str(w.filename)]
