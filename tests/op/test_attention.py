# SPDX-License-Identifier: MIT
"""The op against the oracle, on every backend."""

import pytest
import torch
from attention_cases import TENSORS, Case, judge, naive_attention

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
INT64_MAX = 2**63 - 1

# seqlen_q, seqlen_k: one, tile edges of the kernels (8 keys, 16/32/64 rows, 32/128/256 keys)
# and beside them, primes, shorter and longer than each other, and long enough to split the keys.
LENGTHS = [
    (1, 1), (1, 8), (1, 257), (2, 1), (7, 31), (8, 32), (9, 33), (15, 16), (16, 15), (17, 129),
    (31, 64), (32, 127), (33, 128), (63, 65), (64, 64), (65, 63), (97, 256), (128, 255), (131, 17),
    (3, 521), (513, 5), (1, 1100), (5, 1600),
]  # fmt: skip
HEADS = [(1, 1), (8, 8), (4, 2), (8, 1), (6, 2), (3, 3)]
HEAD_DIMS = [
    (16, 16), (1, 1), (3, 5), (8, 8), (33, 17), (64, 64), (80, 96), (128, 64), (256, 256), (520, 1),
    (1, 520),
]  # fmt: skip
OPTIONS = {
    "full": {},
    "causal": {"is_causal": True},
    "left": {"window_left": 5},
    "right": {"window_right": 3},
    "both": {"window_left": 0, "window_right": 0},
    "causal-window": {"is_causal": True, "window_left": 17},
    "causal-right": {"is_causal": True, "window_right": 40},
    "softcap": {"softcap": 2.5},
    "softcap-causal": {"softcap": 0.7, "is_causal": True, "scale": 0.3},
    "scale": {"scale": -0.75},
    "no-limit": {"window_left": INT64_MAX, "window_right": INT64_MAX},
}


@pytest.fixture
def check(backend):
    """Run a case and judge its three outputs; give them back, on the CPU."""

    def run(case, tensors=None):
        tensors = backend.draw(case) if tensors is None else tensors
        results = backend.run(*(tensors[name] for name in TENSORS), **case.options)
        return judge(tensors, case.options, results)

    return run


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_in_every_dtype(check, dtype, options):
    check(Case(dtype=dtype, options=options))


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("name", ["full", "causal", "causal-window", "both"])
def test_lengths(check, lengths, name):
    seqlen_q, seqlen_k = lengths
    check(Case(seqlen_q=seqlen_q, seqlen_k=seqlen_k, options=OPTIONS[name], head_dim=16))


@pytest.mark.parametrize("lengths", [(1, 257), (17, 129), (65, 63)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_heads(check, heads, dtype, lengths):
    num_heads, num_kv_heads = heads
    seqlen_q, seqlen_k = lengths
    check(
        Case(
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            seqlen_q=seqlen_q,
            seqlen_k=seqlen_k,
            dtype=dtype,
            key_bias=(1, num_heads),
            options={"is_causal": True},
        )
    )


def _rows_of_a_group(check, rows, seqlen_k, dtype):
    seqlen_q = 2 if rows % 2 == 0 else 1
    case = Case(num_heads=2 * rows // seqlen_q, num_kv_heads=2, seqlen_q=seqlen_q, dtype=dtype)
    case = case.but(seqlen_k=seqlen_k, head_dim=72, head_dim_v=40, channels=2, sinks=True)
    check(case.but(options={"is_causal": True, "window_left": seqlen_k - 7}))


EMULATED_NAMES = ("emulated", "emulated-ptx", "amx")
EMULATED = [
    pytest.param(name, marks=[pytest.mark.long] * (name == "amx")) for name in EMULATED_NAMES
]
OTHERS = ["cpu", "chunked", *(["cuda"] if torch.cuda.is_available() else [])]


# The CPU kernel has instances by the rows of a group of heads, takes several tiles for more and
# packs K and V for many; blocks of 128 keys, splits of 256 and more.
@pytest.mark.parametrize("backend", OTHERS, indirect=True)
@pytest.mark.parametrize("rows", [*range(1, 10), 16, 17, 31, 48, 49])
@pytest.mark.parametrize("seqlen_k", [127, 128, 129, 513])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_of_a_group(check, rows, seqlen_k, dtype):
    _rows_of_a_group(check, rows, seqlen_k, dtype)


# Rows that a few tiles hold, wide or narrow, and keys enough to be split over tasks.
@pytest.mark.parametrize("backend", OTHERS, indirect=True)
@pytest.mark.parametrize("rows", [13, 25, 49, 72])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_few_rows_of_many_keys(check, rows, dtype):
    _rows_of_a_group(check, rows, 1025, dtype)


# The tiles of CUDA and AMX kernels are the same for all of them, and an emulated row costs a
# second.
@pytest.mark.parametrize("backend", EMULATED, indirect=True)
@pytest.mark.parametrize("rows", [1, 9, pytest.param(49, marks=pytest.mark.long)])
@pytest.mark.parametrize("seqlen_k", [127, 129, 513])
def test_rows_of_a_group_in_tiles(check, rows, seqlen_k):
    _rows_of_a_group(check, rows, seqlen_k, torch.bfloat16)


@pytest.mark.parametrize("head_dims", HEAD_DIMS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("seqlen_q", [1, 19])
def test_head_dims(check, head_dims, dtype, seqlen_q):
    head_dim, head_dim_v = head_dims
    check(Case(head_dim=head_dim, head_dim_v=head_dim_v, dtype=dtype, seqlen_q=seqlen_q))


# The kernels have instances by head size, by what they compute besides, and by how rows lie.
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 256])
@pytest.mark.parametrize(
    "extras",
    [
        {"channels": None},
        {"channels": 1, "sinks": True},
        {"channels": 2, "options": {"is_causal": True, "softcap": 3.0}},
        {"channels": 10, "options": {"window_left": 40}},
        {"attn_bias": (1, 2), "attn_bias_dtype": torch.float32},
        {"head_dim_v": 27, "options": {"is_causal": True}},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_instances(check, head_dim, extras, dtype):
    sizes = {"seqlen_q": 140, "seqlen_k": 150, "head_dim": head_dim, "head_dim_v": head_dim}
    case = Case(batch=1, num_heads=2, num_kv_heads=1, influence_batch=1, key_bias=(1, 1))
    check(case.but(dtype=dtype, **sizes).but(**extras))


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 8])
@pytest.mark.parametrize("influence_batch", [1, 2])
@pytest.mark.parametrize("seqlen_q", [1, 33])
def test_influence_channels(check, channels, influence_batch, seqlen_q):
    case = Case(channels=channels, influence_batch=influence_batch, seqlen_q=seqlen_q)
    _, influence_out, _ = check(case.but(dtype=torch.bfloat16))
    assert influence_out.shape == (2, channels or 0, 4, seqlen_q)


@pytest.mark.parametrize("shape", [None, (1, 1), (2, 1), (1, 4), (2, 4)], ids=str)
@pytest.mark.parametrize("seqlen_q", [1, 33])
def test_key_bias_broadcasts(check, shape, seqlen_q):
    check(Case(key_bias=shape, seqlen_q=seqlen_q, options={"is_causal": True}))


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 4), (2, 4)], ids=str)
@pytest.mark.parametrize(
    "bias_dtype", [torch.bool, torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str
)
@pytest.mark.parametrize("seqlen_q", [1, 33])
def test_dense_bias(check, shape, bias_dtype, seqlen_q):
    case = Case(attn_bias=shape, attn_bias_dtype=bias_dtype, seqlen_q=seqlen_q)
    check(case.but(options={"is_causal": True, "softcap": 3.0}))


@pytest.mark.parametrize("sinks_dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("seqlen_q", [1, 40])
def test_sinks(backend, check, sinks_dtype, seqlen_q):
    case = Case(sinks=True, seqlen_q=seqlen_q, seqlen_k=33, options={"is_causal": True})
    tensors = backend.draw(case)
    tensors["sinks"] = tensors["sinks"].to(sinks_dtype)
    check(case, tensors)


def test_sink_of_minus_infinity_is_no_sink(backend):
    tensors = backend.draw(Case())
    plain = backend.run(*tensors.values())
    tensors["sinks"] = torch.full((4,), -torch.inf, device=backend.device)
    for expected, actual in zip(plain, backend.run(*tensors.values()), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("q_start", [(0,), (3, 40), (-5, 100), (-1000, 1000)], ids=str)
@pytest.mark.parametrize("name", ["full", "causal", "left", "right", "both", "causal-window"])
@pytest.mark.parametrize("seqlen_q", [1, 33])
def test_q_start(check, q_start, name, seqlen_q):
    check(Case(q_start=q_start, seqlen_q=seqlen_q, sinks=True, options=OPTIONS[name]))


def test_q_start_of_the_default_changes_no_bit(backend):
    case = Case(options={"is_causal": True, "window_left": 20})
    tensors = backend.draw(case)
    default = backend.run(*tensors.values(), **case.options)
    tensors["q_start"] = torch.tensor([65 - 33], dtype=torch.int32, device=backend.device)
    for expected, actual in zip(
        default, backend.run(*tensors.values(), **case.options), strict=True
    ):
        assert actual.equal(expected)


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("seqlen_q", [1, 33])
def test_rows_that_see_nothing(backend, check, sinks, seqlen_q):
    case = Case(seqlen_q=seqlen_q, sinks=sinks, attn_bias=(2, 1))
    tensors = backend.draw(case)
    tensors["key_bias"][0] = -torch.inf
    tensors["attn_bias"][1, 0, 0] = False
    out, influence_out, lse = check(case, tensors)
    assert lse[0].eq(-torch.inf).all()
    assert lse[1, :, 0].eq(-torch.inf).all()
    for result in (out[0], out[1, :, 0], influence_out[0], influence_out[1, :, :, 0]):
        assert result.count_nonzero() == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("zero", ["batch", "seqlen_q", "seqlen_k"])
def test_empty_sizes(check, zero, dtype):
    case = Case(key_bias=(1, 1), influence_batch=1, dtype=dtype, sinks=True)
    out, influence_out, lse = check(case.but(**{zero: 0}))
    assert not out.any()
    assert not influence_out.any()
    assert lse.eq(-torch.inf).all()


@pytest.mark.parametrize("delta", [-1e4, -80.0, -3.0, 3.0, 80.0, 1e4])
@pytest.mark.parametrize("seqlen_q", [1, 33])
def test_large_and_negative_deltas(backend, check, delta, seqlen_q):
    case = Case(seqlen_q=seqlen_q, options={"is_causal": True})
    tensors = backend.draw(case)
    tensors["key_bias"].zero_()[:, :, 3:20] = delta
    check(case, tensors)


@pytest.mark.parametrize("seqlen_q", [1, 33])
def test_keys_masked_by_minus_infinity(backend, check, seqlen_q):
    case = Case(seqlen_q=seqlen_q)
    tensors = backend.draw(case)
    tensors["key_bias"][0, :, :40] = -torch.inf
    tensors["key_bias"][1, :, 1::2] = -torch.inf
    check(case, tensors)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_poisoned_bias_reaches_the_rows_that_see_it_alone(backend, poison):
    case = Case(seqlen_q=65, options={"is_causal": True})
    tensors = backend.draw(case)
    clean = backend.run(*tensors.values(), **case.options)
    tensors["key_bias"][1, 0, 40] = poison
    for before, after, rows in zip(
        clean, backend.run(*tensors.values(), **case.options), (2, 3, 2), strict=True
    ):
        before, after = before.movedim(rows, 1), after.movedim(rows, 1)
        assert after[0].equal(before[0])
        assert after[1, :40].equal(before[1, :40])
        assert not after[1, 40:].isfinite().any()


def test_nan_in_a_query_stays_in_its_row(backend):
    tensors = backend.draw(Case())
    clean = backend.run(*tensors.values())
    tensors["query"][1, 2, 7] = torch.nan
    after = backend.run(*tensors.values())
    index = {"out": (1, 2, 7), "influence_out": (1, slice(None), 2, 7), "lse": (1, 2, 7)}
    for before, poisoned, where in zip(clean, after, index.values(), strict=True):
        assert poisoned[where].isnan().all()
        poisoned[where] = before[where]
        assert poisoned.equal(before)


def _transposed(tensor):
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


def _sliced(tensor):
    wide = torch.full((*tensor.shape[:2], tensor.shape[2] + 3, tensor.shape[3] + 5), torch.nan)
    wide = wide.to(tensor)
    view = wide[:, :, 1:-2, 2:-3]
    view.copy_(tensor)
    return view


def _expanded(tensor):
    return tensor[:1, :1].expand_as(tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", [_transposed, _sliced, _expanded])
@pytest.mark.parametrize("seqlen_q", [1, 33])
def test_strides_of_operands(backend, check, layout, dtype, seqlen_q):
    case = Case(dtype=dtype, seqlen_q=seqlen_q, options={"is_causal": True})
    tensors = backend.draw(case)
    for name in ("query", "key", "value"):
        tensors[name] = layout(tensors[name])
    check(case, tensors)


@pytest.mark.parametrize("seqlen_q", [1, 33])
def test_strides_of_biases(backend, check, seqlen_q):
    case = Case(seqlen_q=seqlen_q, attn_bias=(1, 1), attn_bias_dtype=torch.float32, channels=3)
    tensors = backend.draw(case)
    with backend.device:
        tensors["key_bias"] = torch.randn(65, 1, 2).permute(2, 1, 0).expand(2, 4, 65)
        tensors["influence"] = torch.rand(65, 3, 2).permute(2, 1, 0)
        tensors["attn_bias"] = torch.randn(1, 1, seqlen_q, 1).expand(2, 4, seqlen_q, 65)
        tensors["sinks"] = torch.randn(8)[::2]
        tensors["q_start"] = torch.tensor([12], dtype=torch.int32).expand(2)
    check(case.but(options={"is_causal": True}), tensors)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seqlen_q", [1, 33])
def test_memory_order(backend, dtype, seqlen_q):
    out, influence_out, lse = backend.run(
        *backend.draw(Case(dtype=dtype, seqlen_q=seqlen_q)).values()
    )
    assert out.transpose(1, 2).is_contiguous()
    assert influence_out.is_contiguous()
    assert lse.is_contiguous()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seqlen_q", [1, 33])
@pytest.mark.parametrize("name", ["full", "softcap-causal"])
def test_zero_bias_changes_no_bit(backend, dtype, seqlen_q, name):
    tensors = backend.draw(Case(dtype=dtype, seqlen_q=seqlen_q))
    tensors["key_bias"] = None
    plain = backend.run(*tensors.values(), **OPTIONS[name])
    for shape in ((1, 1, 65), (2, 4, 65)):
        tensors["key_bias"] = torch.zeros(shape, device=backend.device)
        biased = backend.run(*tensors.values(), **OPTIONS[name])
        for expected, actual in zip(plain, biased, strict=True):
            assert actual.equal(expected)


@pytest.mark.parametrize("seqlen_q", [1, 33])
def test_influence_changes_no_bit_of_the_rest(backend, seqlen_q):
    tensors = backend.draw(Case(seqlen_q=seqlen_q, channels=3))
    with_influence = backend.run(*tensors.values())
    tensors["influence"] = None
    without = backend.run(*tensors.values())
    assert without[0].equal(with_influence[0])
    assert without[2].equal(with_influence[2])


# Both are work enough for three threads of the CPU kernel, the first by splitting the keys. A few
# blocks are enough for what has no threads of its own.
THREADED, BLOCKS = [(1, 2100), (70, 300)], [(1, 300), (70, 130)]
REPEATED = [
    pytest.param(backend, lengths, marks=[pytest.mark.long] * (backend == "amx"))
    for backend in (*OTHERS, *EMULATED_NAMES)
    for lengths in (BLOCKS if backend in ("chunked", *EMULATED_NAMES) else THREADED)
]


@pytest.mark.parametrize(("backend", "lengths"), REPEATED, indirect=["backend"], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("restored_threads")
def test_equal_calls_give_equal_bits(backend, lengths, dtype):
    seqlen_q, seqlen_k = lengths
    case = Case(seqlen_q=seqlen_q, seqlen_k=seqlen_k, dtype=dtype, head_dim=128, head_dim_v=128)
    tensors = backend.draw(case)
    first = backend.run(*tensors.values(), is_causal=True)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        again = backend.run(*tensors.values(), is_causal=True)
        for expected, actual in zip(first, again, strict=True):
            assert actual.equal(expected)


def test_disjoint_indicators_sum_to_one(backend, assert_accurate):
    case = Case(channels=3, options={"is_causal": True}, seqlen_q=65)
    tensors = backend.draw(case)
    owner = torch.randint(3, (65,), device=backend.device)
    tensors["influence"] = torch.stack([owner == channel for channel in range(3)])[None].float()
    total = backend.run(*tensors.values(), **case.options)[1].sum(1).cpu()
    tensors = {name: None if t is None else t.cpu() for name, t in tensors.items()}
    naive = naive_attention(tensors, case.options, torch.float32)[1].sum(1)
    assert_accurate(total, torch.ones_like(total).double(), naive, "sum of influences")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("lengths", [(3, 262), (2, 2053)], ids=str)
def test_positions_that_the_dtype_cannot_hold(check, dtype, lengths):
    seqlen_q, seqlen_k = lengths
    case = Case(dtype=dtype, seqlen_q=seqlen_q, seqlen_k=seqlen_k, head_dim=8, head_dim_v=8)
    check(case.but(options=OPTIONS["both"]))


@pytest.mark.parametrize("by", ["key_bias", "attn_bias", "mask"])
@pytest.mark.parametrize("seqlen_q", [1, 33])
def test_hidden_keys_may_have_any_dot_product(backend, by, seqlen_q):
    case = Case(seqlen_q=seqlen_q, attn_bias=(1, 1), attn_bias_dtype=torch.float32)
    tensors = backend.draw(case)
    tensors[by if by == "key_bias" else "attn_bias"][..., 7:9] = -torch.inf
    if by == "mask":
        tensors["attn_bias"] = tensors["attn_bias"].isfinite()
    clean = backend.run(*tensors.values())
    tensors["key"][:, :, 7], tensors["key"][:, :, 8] = torch.inf, torch.nan
    for expected, actual in zip(clean, backend.run(*tensors.values()), strict=True):
        assert actual.equal(expected)


def test_causal_rows_do_not_see_garbage_behind_them(backend):
    """A static cache holds anything behind the last written key."""
    case = Case(seqlen_q=4, q_start=(20,), options={"is_causal": True})
    tensors = backend.draw(case)
    clean = backend.run(*tensors.values(), **case.options)
    for name in ("key", "value"):
        tensors[name][:, :, 24:] = 1e30
    for name in ("key_bias", "influence"):
        tensors[name][:, :, 24:] = 1e30
    for expected, actual in zip(clean, backend.run(*tensors.values(), **case.options), strict=True):
        assert actual.equal(expected)
