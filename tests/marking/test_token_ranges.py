# SPDX-License-Identifier: MIT
"""Which tokens an image has, where some report no characters."""

import pytest

from guide_ext.marking.token_ranges import with_whole_images


@pytest.mark.parametrize(
    ("offsets", "images", "tokens"),
    [
        ([(0, 1), (1, 4), (4, 5)], [(1, 4)], [(1, 2)]),
        # Without characters: inside the image, before and behind all that has some.
        ([(0, 1), (2, 2), (2, 3), (3, 3), (4, 5)], [(1, 4)], [(1, 4)]),
        ([(0, 1), (1, 2), (3, 3), (3, 3), (4, 5)], [(1, 4)], [(1, 4)]),
        # At its edges, where they may belong to the text.
        ([(0, 1), (1, 1), (1, 4), (4, 4), (4, 5)], [(1, 4)], [(2, 3)]),
        # Tokens that reach into the text.
        ([(0, 2), (2, 3), (3, 5)], [(1, 4)], [(0, 3)]),
        # Side by side.
        ([(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)], [(1, 3), (3, 4)], [(1, 3), (3, 4)]),
        # None at all.
        ([(0, 1), (1, 1), (4, 5)], [(1, 4)], [(0, 0)]),
        ([(0, 0), (0, 3)], [(0, 3)], [(1, 2)]),
    ],
)
def test_tokens_of_images(offsets, images, tokens):
    widened, found = with_whole_images(offsets, images)
    assert found == tokens
    for index, (own, wide) in enumerate(zip(offsets, widened, strict=True)):
        mine = [
            place for place, (first, end) in zip(images, found, strict=True) if first <= index < end
        ]
        assert wide == own or mine
        for begins, ends in mine:
            assert wide[0] <= begins
            assert wide[1] >= ends
    visible = [start for start, end in widened if start < end]
    assert visible == sorted(visible)
