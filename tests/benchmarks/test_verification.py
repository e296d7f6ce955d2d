# SPDX-License-Identifier: MIT
"""The benchmarks time nothing that is wrong, and say what they leave out."""

import dataclasses
import functools

import cpu_attention
import peers
import pytest
import sampling
import torch
import verification
from problems import Inputs, Problem
from smoke_problems import CAUSAL, CHANNELS, CPU, DECODE, DENSE, left_out
from torch.nn.attention import SDPBackend, flex_attention


def spoiled(make, change):
    """Return an implementation whose results are changed."""

    def wrong(inputs):
        call = make(inputs)
        return peers.Call(
            lambda: change(*call.run()),
            *(call.is_biased, call.channels, call.weighs_in_float32, call.judged_as),
        )

    return wrong


EVERY = [
    pytest.param(problem, name, id=f"{problem}-{name}")
    for problem in (CAUSAL, DECODE, DENSE, CHANNELS)
    for name in cpu_attention.implementations(problem, {})
    if name not in left_out(problem)
]


FLASH = functools.partial(peers.sdpa, backend=SDPBackend.FLASH_ATTENTION)


class TestVerification:
    @pytest.mark.parametrize(("problem", "name"), EVERY)
    def test_a_wrong_implementation_is_not_timed(self, problem, name):
        make = cpu_attention.implementations(problem, {})[name]
        inputs = Inputs.draw(problem, CPU)
        prepared = sampling.prepare(
            inputs, {"right": make, "wrong": spoiled(make, lambda out, share: (1.1 * out, share))}
        )
        assert list(prepared.calls) == ["right"]
        assert prepared.left_out["wrong"].startswith("WRONG: out of (batch, head)")

    @pytest.mark.parametrize("lost", ["window", "dense bias", "head"])
    @pytest.mark.parametrize("make", [peers.guide, peers.sdpa, peers.eager])
    def test_a_mask_that_is_lost_is_noticed(self, make, lost):
        def without(inputs):
            if lost == "window":
                problem = dataclasses.replace(inputs.problem, window_left=-1)
                return make(dataclasses.replace(inputs, problem=problem))
            if lost == "dense bias":
                return make(dataclasses.replace(inputs, dense_bias=None))
            return make(dataclasses.replace(inputs, dense_bias=inputs.dense_bias.roll(1, 1)))

        prepared = sampling.prepare(Inputs.draw(DENSE, CPU), {"right": make, "wrong": without})
        assert list(prepared.calls) == ["right"]
        assert prepared.left_out["wrong"].startswith("WRONG: out of (batch, head)")

    def test_every_channel_is_judged(self):
        def zero_last(out, share):
            return out, torch.cat([share[:, :-1], torch.zeros_like(share[:, -1:])], 1)

        prepared = sampling.prepare(
            Inputs.draw(CHANNELS, CPU), {"wrong": spoiled(peers.guide, zero_last)}
        )
        assert prepared.left_out["wrong"].startswith("WRONG: influence_out of (batch")

    @pytest.mark.parametrize("is_causal", [False, True])
    def test_the_window_of_flex(self, monkeypatch, is_causal):
        """Not compiled, which takes seconds; of a compiled one a run of the benchmark judges."""
        monkeypatch.setattr(peers, "_compiled_flex", lambda: flex_attention.flex_attention)
        problem = Problem(
            1, 4, 2, 65, 70, 32, is_causal, torch.float32, times_flex=True, window_left=9
        )
        flex = cpu_attention.implementations(problem, {})[cpu_attention.FLEX]
        prepared = sampling.prepare(Inputs.draw(problem, CPU), {"flex": flex})
        assert prepared.left_out == {}

    @pytest.mark.parametrize(
        ("changes", "make", "reason"),
        [
            ({"channels": 8}, peers.columns, "one channel only"),
            ({"channels": 8}, peers.eager, "one channel only"),
            ({"channels": 8}, peers.flex, "one channel only"),
            ({"has_dense_bias": True}, peers.flex, "not timed with a dense bias"),
            ({"window_left": 5}, FLASH, "takes no dense mask"),
        ],
    )
    def test_what_cannot_take_a_problem_is_left_out_with_the_reason(self, changes, make, reason):
        problem = dataclasses.replace(CAUSAL, times_flex=True, **changes)
        prepared = sampling.prepare(Inputs.draw(problem, CPU), {"peer": make})
        assert reason in prepared.left_out["peer"]
        assert not prepared.failed

    def test_coarse_influence_of_ours_is_noticed(self):
        coarse = spoiled(peers.guide, lambda out, share: (out, share.bfloat16().float()))
        prepared = sampling.prepare(Inputs.draw(CAUSAL, CPU), {"coarse": coarse})
        assert prepared.left_out["coarse"].startswith("WRONG: influence_out of (batch")

    def test_small_rows_are_judged_by_themselves(self):
        """Deep causal rows are averages: an error of their own size must not hide behind row 0."""
        problem = Problem(1, 1, 1, 2048, 2048, 32, is_causal=True)
        last = 7  # of the rows that are compared

        def zero_last(out, share):
            out = out.clone()
            out[:, :, -1] = 0.0
            return out, share

        prepared = sampling.prepare(
            Inputs.draw(problem, CPU), {"wrong": spoiled(peers.sdpa, zero_last)}
        )
        assert f"at ({last}, " in prepared.left_out["wrong"]

    def test_shape_and_rest_of_the_output(self):
        inputs = Inputs.draw(CAUSAL, CPU)
        call = peers.sdpa(inputs)
        out, _ = call.run()
        with pytest.raises(pytest.fail.Exception, match="finite numbers"):
            verification.Judge(inputs).verify(call, (out[:, :, 1:], None))
        out[0, 1, 7, 3] = torch.nan  # in a row that need not be compared
        with pytest.raises(pytest.fail.Exception, match="finite numbers"):
            verification.Judge(inputs).verify(call, (out, None))

    def test_errors_of_peers_stop_nothing(self):
        def broken(inputs):
            raise RuntimeError("it broke")

        prepared = sampling.prepare(
            Inputs.draw(DECODE, CPU), {"broken": broken, "ours": peers.guide}
        )
        assert prepared.left_out == {"broken": "RuntimeError: it broke"}
        assert prepared.failed == ["broken"]
        assert list(prepared.calls) == ["ours"]

    def test_time_that_is_up(self):
        prepared = sampling.prepare(Inputs.draw(DECODE, CPU), {"ours": peers.guide}, end=0.0)
        assert prepared.left_out == {"ours": "out of time"}

    def test_hopeless_products_are_left_out_with_the_reason(self):
        eager = cpu_attention.implementations(CAUSAL, {"torch.mm fp32 GFLOP/s": 1e-5})[
            cpu_attention.EAGER
        ]
        prepared = sampling.prepare(Inputs.draw(CAUSAL, CPU), {"eager": eager})
        assert "torch.mm does 0.0 GFLOP/s" in prepared.left_out["eager"]

    def test_large_matrices_are_left_out_with_the_reason(self):
        with pytest.raises(peers.UnavailableError, match="matrices of all heads take more than"):
            peers.eager(Inputs.draw(CAUSAL, CPU), largest_matrix=1000)
