# SPDX-License-Identifier: MIT
import itertools

import pytest

from guide_ext.embedded.world import Style
from guide_ext.studies.cells import ANSWER, Cell, Condition, Row, Where
from guide_ext.studies.tables.paired import differences, holm, paired, sign_flip
from guide_ext.studies.tables.results import Answer

PLAIN, TWO, UPPER = Condition(), Condition(delta=2.0), Condition(Style.UPPER)


def answer(document, condition, value, sample=0):
    row = Row(document, "needle", "", document, "", 3, (0, 500))
    return Answer(Cell(ANSWER, row, condition, sample), "", 1, {"found": float(value)})


def test_each_answer_is_compared_with_the_plain_one_to_the_same_row():
    answers = [answer(f"d{i}", PLAIN, i % 2) for i in range(40)]
    answers += [answer(f"d{i}", TWO, 1) for i in range(40)]
    answers += [answer(f"d{i}", UPPER, i % 2) for i in range(40)]
    two, upper = differences(answers, "found")
    assert two[:6] == ["Δ = 2", "plain", 2.0, 40, 40, 0.5]
    assert 0 < two[6] < 0.5 < two[7]
    assert two[9] < 0.001
    assert upper[5:] == [0.0, 0.0, 0.0, 1.0, 1.0]


def test_rows_without_a_plain_answer_are_left_out():
    answers = [answer("a", PLAIN, 0), answer("a", TWO, 1), answer("b", TWO, 0)]
    ((_, _, _, pairs, documents, value, low, high, _, _),) = differences(answers, "found")
    assert (pairs, documents, value, low, high) == (1, 1, 1.0, None, None)
    assert differences([answer("a", TWO, 1)], "found") == []


def test_each_sample_is_compared_with_the_plain_one_of_its_number():
    """The samples of a number share their random numbers, and those of a row differ."""
    plain = [answer("a", PLAIN, value, sample) for sample, value in enumerate((0, 1, 0))]
    guided = [answer("a", TWO, value, sample) for sample, value in enumerate((0, 1, 1, 1))]
    assert paired(guided, plain, "found") == [("a", 0.0), ("a", 0.0), ("a", 1.0)]
    assert paired(guided[::-1], plain, "found") == [("a", 1.0), ("a", 0.0), ("a", 0.0)]


def test_the_p_of_signs_is_that_of_all_flips_counted_out():
    values = [("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", -0.5)]
    total = abs(sum(value for _, value in values))
    flips = [
        abs(sum(sign * value for sign, (_, value) in zip(signs, values, strict=True)))
        for signs in itertools.product((1, -1), repeat=4)
    ]
    exact = sum(one >= total for one in flips) / len(flips)
    assert sign_flip(values) == pytest.approx(exact, abs=0.02)
    assert sign_flip([("a", 1.0), ("a", -1.0)]) == 1.0  # of one document, a sum


def test_correction_keeps_the_order_and_never_lowers():
    raw = [0.04, 0.001, 0.5, 0.02]
    corrected = holm(raw)
    assert corrected == pytest.approx([0.08, 0.004, 0.5, 0.06])
    assert holm([]) == []


def test_unusual_conditions_have_keys_of_their_own_and_usual_ones_the_old():
    row = Row("a", "needle", "x", "y", "z", 3, (0, 500))
    usual = Cell(ANSWER, row, TWO)
    assert set(usual.described()) == {
        "kind", "task", "row", "style", "delta", "sample", "decoding", "seed", "adapter"
    }  # fmt: skip
    others = [
        Condition(delta=2.0, parts=("question",)),
        Condition(delta=2.0, share=0.1),
        Condition(delta=2.0, where=Where.EARLY),
    ]
    assert len({usual.key, *(Cell(ANSWER, row, one).key for one in others)}) == 4
