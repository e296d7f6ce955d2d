# SPDX-License-Identifier: MIT
"""SEKA's projections: heads that drop out, directions, mixtures, files."""

import dataclasses
import pickle

import pytest
import torch

from guide_ext.steering.seka import KeyProjections, Mixture, fit_projections

LAYERS, HEADS, TOKENS, SIZE = 2, 3, 9, 4


def keys(count=3):
    return [torch.randn(LAYERS, HEADS, TOKENS, SIZE) for _ in range(count)]


def fields(found):
    return {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}


def test_heads_that_hardly_move_get_no_projection():
    neutral, relevant, irrelevant = keys()
    relevant[0, 1] = irrelevant[0, 1]
    found = fit_projections(neutral, relevant, irrelevant, min_shift=0.1)
    for name in ("positive", "negative", "vectors", "strengths"):
        assert not getattr(found, name)[0, 1].any(), name
        assert getattr(found, name)[1, 1].any(), name
    assert found.shifts[0, 1] == 0
    whole = fit_projections(neutral, relevant, irrelevant)
    later = fields(whole.of_heads(0.1))
    assert all(torch.equal(later[name], own) for name, own in fields(found).items())
    assert whole.positive[0, 1].any()


def test_directions_point_to_neutral_keys():
    neutral, relevant, irrelevant = keys()
    found = fit_projections(neutral, relevant, irrelevant, variance=0.5)
    towards = torch.einsum("lhtd,lhdk->lhk", neutral, found.vectors)
    assert (towards > 0).all()
    covariance = neutral.mT @ relevant / TOKENS
    torch.testing.assert_close(found.strengths, torch.linalg.svdvals(covariance))
    # Left vectors: what the transposed covariance sends to its singular values.
    sent = torch.einsum("lhed,lhek->lhdk", covariance, found.vectors).norm(dim=-2)
    torch.testing.assert_close(sent, found.strengths)


def test_few_tokens_have_few_directions():
    found = fit_projections(*(one[:, :, :2] for one in keys()), variance=1.0)
    assert (found.vectors.abs().sum(-2) > 0).sum(-1).eq(2).all()
    torch.testing.assert_close(found.vectors @ found.vectors.mT, found.positive)


def test_an_expert_without_a_head_takes_no_part_there():
    first, second = (fit_projections(*keys()) for _ in range(2))
    without = second.shifts.clone()
    without[0, 1] = -1.0
    second = dataclasses.replace(second, shifts=without).of_heads(0.0)
    query = torch.randn(LAYERS, 2, HEADS, SIZE)
    weights = Mixture((first, second), 2).weights(query)
    assert not weights[1, 0, :, 1].any()
    assert torch.equal(weights[0, 0, :, 1].abs(), torch.ones(2))
    nowhere = dataclasses.replace(first, shifts=without).of_heads(0.0)
    weights = Mixture((nowhere, second), 2).weights(query)
    assert not weights[:, 0, :, 1].any()  # and no NaN
    assert weights.isfinite().all()


def test_the_length_of_a_query_does_not_matter_and_its_sign_does():
    mixture = Mixture(tuple(fit_projections(*keys()) for _ in range(3)), 2)
    query = torch.randn(LAYERS, 2, HEADS, SIZE)
    weights = mixture.weights(query)
    torch.testing.assert_close(mixture.weights(7 * query), weights)
    torch.testing.assert_close(mixture.weights(-query), -weights)


def test_all_directions_where_there_are_fewer_than_asked_for():
    experts = tuple(fit_projections(*keys()) for _ in range(2))
    query = torch.randn(LAYERS, 2, HEADS, SIZE)
    whole = Mixture(experts, SIZE).weights(query)
    assert torch.equal(Mixture(experts, 100).weights(query), whole)


def test_files(tmp_path):
    found = fit_projections(*keys())
    found.save(tmp_path / "seka.pt")
    read = fields(KeyProjections.load(tmp_path / "seka.pt"))
    assert all(torch.equal(read[name], own) for name, own in fields(found).items())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"negative": None}, "path must be a file of projections with positive, negative"),
        ({"more": torch.zeros(1)}, "path must be a file of projections with"),
        ({"positive": torch.zeros(2, 3, 4)}, r"positive must be \[layers, num_kv_heads"),
        ({"positive": torch.zeros(2, 3, 4, 5)}, r"positive must be \[layers, num_kv_heads"),
        ({"strengths": torch.zeros(2, 3, 5)}, r"strengths must be \[2, 3, 4\] as positive is"),
        ({"shifts": torch.zeros(3, 2)}, r"shifts must be \[2, 3\]"),
        ({"vectors": torch.zeros(2, 3, 4, 3)}, r"vectors must be \[2, 3, 4, 4\]"),
    ],
)
def test_files_of_something_else(tmp_path, changed, message):
    content = {**fields(fit_projections(*keys())), **changed}
    torch.save({name: own for name, own in content.items() if own is not None}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        KeyProjections.load(tmp_path / "a.pt")


def test_files_that_are_no_files_of_tensors(tmp_path):
    (tmp_path / "a.pt").write_text("no projections", "utf-8")
    with pytest.raises(ValueError, match="path must be a file of projections, got"):
        KeyProjections.load(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(print, protocol=2))
    with pytest.raises(ValueError, match="path must be a file of projections, got"):
        KeyProjections.load(tmp_path / "b.pt")
    with pytest.raises(FileNotFoundError):
        KeyProjections.load(tmp_path / "none.pt")


def test_what_is_no_number():
    with pytest.raises(ValueError, match="min_shift must be a finite number, got nan"):
        fit_projections(*keys(), min_shift=float("nan"))
