# SPDX-License-Identifier: MIT
"""Every argument error: the same `ValueError`, word for word, whichever way the op is called."""

import fractions
import re

import numpy as np
import pytest
import torch
from attention_cases import Case

from guide_ext.op.attention import biased_attention, explain_dispatch

GOOD = Case(
    batch=2, num_heads=4, num_kv_heads=2, seqlen_q=3, seqlen_k=5, head_dim=8, head_dim_v=6,
    attn_bias=(1, 1), sinks=True, q_start=(2,),
)  # fmt: skip
NAN, INF = float("nan"), float("inf")


def _zeros(*shape, dtype=torch.float32, device="cpu"):
    return torch.zeros(shape, dtype=dtype, device=device)


def _transposed(*shape):
    return _zeros(*shape).mT


KEY = "key must be [batch, num_kv_heads, seqlen_k, head_dim]"
KEY_SIZES = f"{KEY} = [2, num_kv_heads, seqlen_k, 8] to go with query"
VALUE = "value must be [batch, num_kv_heads, seqlen_k, head_dim_v]"
VALUE_SIZES = f"{VALUE} = [2, 2, 5, head_dim_v] to go with key"
HEADS = "query must have num_heads that is a positive multiple of key's num_kv_heads"
LAST = "must have a contiguous last dimension"
KEY_BIAS = "key_bias must be [1 or batch, 1 or num_heads, seqlen_k] = [1 or 2, 1 or 4, 5]"
INFLUENCE = "influence must be [1 or batch, channels >= 1, seqlen_k] = [1 or 2, channels >= 1, 5]"
ATTN_BIAS = (
    "attn_bias must be [1 or batch, 1 or num_heads, seqlen_q, seqlen_k] = [1 or 2, 1 or 4, 3, 5]"
)
FLOATS = "float16, bfloat16, float32 or float64"
SCALE = "scale must be at most 2.35e+38 in magnitude"
SOFTCAP = "softcap must be 0 (off) or from 1.17549e-38 to 2.35e+38"

# argument, bad value, what the message says after "biased_attention: "
BAD = [
    (
        "query",
        _zeros(2, 4, 3),
        "query must be [batch, num_heads, seqlen_q, head_dim], got shape [2, 4, 3]",
    ),
    ("key", _zeros(2, 2, 5), f"{KEY}, got shape [2, 2, 5]"),
    ("value", _zeros(1, 2, 2, 5, 6), f"{VALUE}, got shape [1, 2, 2, 5, 6]"),
    ("query", _zeros(2, 4, 3, 8, dtype=torch.int64), f"query must be {FLOATS}, got int64"),
    ("query", _zeros(2, 4, 3, 8, dtype=torch.complex64), f"query must be {FLOATS}, got complex64"),
    (
        "key",
        _zeros(2, 2, 5, 8, dtype=torch.bfloat16),
        "key must have the dtype of query, float32, got bfloat16",
    ),
    (
        "value",
        _zeros(2, 2, 5, 6, dtype=torch.float64),
        "value must have the dtype of query, float32, got float64",
    ),
    ("query", _zeros(2, 4, 3, 0), "query must have head_dim >= 1, got shape [2, 4, 3, 0]"),
    ("key", _zeros(1, 2, 5, 8), f"{KEY_SIZES}, got shape [1, 2, 5, 8]"),
    ("key", _zeros(2, 2, 5, 7), f"{KEY_SIZES}, got shape [2, 2, 5, 7]"),
    ("value", _zeros(2, 2, 4, 6), f"{VALUE_SIZES}, got shape [2, 2, 4, 6]"),
    ("value", _zeros(2, 4, 5, 6), f"{VALUE_SIZES}, got shape [2, 4, 5, 6]"),
    ("value", _zeros(1, 2, 5, 6), f"{VALUE_SIZES}, got shape [1, 2, 5, 6]"),
    ("value", _zeros(2, 2, 5, 0), "value must have head_dim_v >= 1, got shape [2, 2, 5, 0]"),
    ("query", _zeros(2, 3, 3, 8), f"{HEADS}, got 3 and 2"),
    ("query", _zeros(2, 0, 3, 8), f"{HEADS}, got 0 and 2"),
    (
        "query",
        _transposed(2, 4, 8, 3),
        f"query {LAST}, got strides [96, 24, 1, 3]; call .contiguous()",
    ),
    ("key", _transposed(2, 2, 8, 5), f"key {LAST}, got strides [80, 40, 1, 5]; call .contiguous()"),
    (
        "value",
        _transposed(2, 2, 6, 5),
        f"value {LAST}, got strides [60, 30, 1, 5]; call .contiguous()",
    ),
    (
        "key_bias",
        _zeros(2, 1, 5, dtype=torch.bfloat16),
        "key_bias must be float32, got bfloat16; call .float()",
    ),
    (
        "key_bias",
        _zeros(2, 1, 5, dtype=torch.float64),
        "key_bias must be float32, got float64; call .float()",
    ),
    ("key_bias", _zeros(5), f"{KEY_BIAS}, got shape [5]"),
    ("key_bias", _zeros(3, 1, 5), f"{KEY_BIAS}, got shape [3, 1, 5]"),
    ("key_bias", _zeros(2, 2, 5), f"{KEY_BIAS}, got shape [2, 2, 5]"),
    ("key_bias", _zeros(2, 1, 3), f"{KEY_BIAS}, got shape [2, 1, 3]"),
    (
        "influence",
        _zeros(2, 1, 5, dtype=torch.int32),
        "influence must be float32, got int32; call .float()",
    ),
    ("influence", _zeros(2, 1, 1, 5), f"{INFLUENCE}, got shape [2, 1, 1, 5]"),
    ("influence", _zeros(3, 1, 5), f"{INFLUENCE}, got shape [3, 1, 5]"),
    ("influence", _zeros(2, 0, 5), f"{INFLUENCE}, got shape [2, 0, 5]"),
    ("influence", _zeros(2, 1, 4), f"{INFLUENCE}, got shape [2, 1, 4]"),
    (
        "attn_bias",
        _zeros(1, 1, 3, 5, dtype=torch.int64),
        f"attn_bias must be bool (True = visible), {FLOATS}, got int64",
    ),
    ("attn_bias", _zeros(3, 5), f"{ATTN_BIAS}, got shape [3, 5]"),
    ("attn_bias", _zeros(3, 1, 3, 5), f"{ATTN_BIAS}, got shape [3, 1, 3, 5]"),
    ("attn_bias", _zeros(1, 2, 3, 5), f"{ATTN_BIAS}, got shape [1, 2, 3, 5]"),
    ("attn_bias", _zeros(1, 1, 1, 5), f"{ATTN_BIAS}, got shape [1, 1, 1, 5]"),
    ("attn_bias", _zeros(1, 1, 3, 1), f"{ATTN_BIAS}, got shape [1, 1, 3, 1]"),
    ("sinks", _zeros(4, dtype=torch.int64), f"sinks must be {FLOATS}, got int64"),
    ("sinks", _zeros(2), "sinks must be [num_heads] = [4], got shape [2]"),
    ("sinks", _zeros(1, 4), "sinks must be [num_heads] = [4], got shape [1, 4]"),
    ("q_start", _zeros(1, dtype=torch.int64), "q_start must be int32, got int64"),
    (
        "q_start",
        _zeros(3, dtype=torch.int32),
        "q_start must be [1 or batch] = [1 or 2], got shape [3]",
    ),
    ("q_start", _zeros(dtype=torch.int32), "q_start must be [1 or batch] = [1 or 2], got shape []"),
    ("window_left", -2, "window_left must be -1 (no limit) or at least 0, got -2"),
    ("window_right", -7, "window_right must be -1 (no limit) or at least 0, got -7"),
    ("scale", NAN, f"{SCALE}, got nan"),
    ("scale", -INF, f"{SCALE}, got -inf"),
    ("scale", 3e38, f"{SCALE}, got 3e+38"),
    ("softcap", 1e-50, f"{SOFTCAP}, got 1e-50"),
    ("softcap", -0.5, f"{SOFTCAP}, got -0.5"),
    ("softcap", NAN, f"{SOFTCAP}, got nan"),
    ("softcap", -NAN, f"{SOFTCAP}, got nan"),
    ("softcap", INF, f"{SOFTCAP}, got inf"),
    ("softcap", 2.36e38, f"{SOFTCAP}, got 2.36e+38"),
]
BAD += [
    (name, name, f"{name} must be on the device of query, cpu, got meta")
    for name in ("key", "value", "key_bias", "influence", "attn_bias", "sinks", "q_start")
]
WAYS = {
    "op": torch.ops.guide.biased_attention,
    "chunked": torch.ops.guide.biased_attention_chunked,
    "function": biased_attention,
    "explain_dispatch": explain_dispatch,
}


def _message(way, tensors, options):
    with pytest.raises(ValueError, match=r"^biased_attention: ") as error:
        way(*tensors.values(), **options)
    return str(error.value)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    ("argument", "bad", "text"), BAD, ids=[f"{i}-{bad[0]}" for i, bad in enumerate(BAD)]
)
def test_bad_argument(way, argument, bad, text):
    tensors, options = GOOD.tensors(), {}
    if isinstance(bad, str):
        tensors[argument] = tensors[argument].to("meta")
    elif isinstance(bad, torch.Tensor):
        tensors[argument] = bad
    else:
        options[argument] = bad
    assert _message(way, tensors, options) == f"biased_attention: {text}"


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_scale_and_softcap_together(way):
    options = {"scale": -1e30, "softcap": 1e-37}
    assert _message(way, GOOD.tensors(), options) == (
        "biased_attention: scale / softcap must be at most 2.35e+38 in magnitude, "
        "got -1e+30 / 1e-37"
    )


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_companions_of_a_float64_query(way):
    tensors = GOOD.but(dtype=torch.float64).tensors()
    tensors["key_bias"] = tensors["key_bias"].half()
    assert _message(way, tensors, {}) == (
        "biased_attention: key_bias must be float32 or float64, got float16; call .float()"
    )


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    "name", ["query", "key", "value", "key_bias", "influence", "attn_bias", "sinks", "q_start"]
)
def test_sparse_tensors(way, name):
    tensors = GOOD.tensors()
    tensors[name] = tensors[name].to_sparse()
    assert _message(way, tensors, {}) == (
        f"biased_attention: {name} must be a strided tensor, got layout sparse_coo"
    )


@pytest.mark.parametrize("way", list(WAYS.values())[:3], ids=list(WAYS)[:3])
def test_fake_tensors_are_checked_too(way):
    tensors = {name: tensor.to("meta") for name, tensor in GOOD.tensors().items()}
    tensors["key_bias"] = tensors["key_bias"][:, :, :3]
    assert _message(way, tensors, {}).endswith("got shape [2, 1, 3]")


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_good_inputs_are_good(way):
    way(*GOOD.tensors().values())


def test_shorthands_do_not_hide_errors():
    tensors = GOOD.tensors()
    tensors["key_bias"] = _zeros(3, 5)
    assert _message(biased_attention, tensors, {}).endswith("got shape [3, 1, 5]")


FUNCTIONS = {"function": biased_attention, "explain_dispatch": explain_dispatch}
NAMES = list(GOOD.tensors())
NO_TENSORS = [
    (3, "int 3"),
    (True, "bool True"),
    ("x", "str 'x'"),
    ([1.0, 2.0], "list"),
    (np.zeros(5, np.float32), "numpy.ndarray"),
    (np.float32(1.0), "numpy.float32"),
]
WINDOW = "a whole number: -1 (no limit) or at least 0"
NO_NUMBERS = {
    "window_left": (WINDOW, "; pass -1 for no limit"),
    "window_right": (WINDOW, "; pass -1 for no limit"),
    "softcap": ("a number", "; pass 0.0 for none"),
    "is_causal": ("True or False", ""),
}
NESTED = {"nested": torch.strided, "jagged": torch.jagged}


def _type_error(way, tensors, options):
    with pytest.raises(TypeError) as error:
        way(**tensors, **options)
    return str(error.value)


@pytest.mark.parametrize("way", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("value", "described"), NO_TENSORS, ids=[d for _, d in NO_TENSORS])
def test_what_is_no_tensor(way, name, value, described):
    tensors = {**GOOD.tensors(), name: value}
    kind = "a torch.Tensor" if name in NAMES[:3] else "a torch.Tensor or None"
    convert = "torch.from_numpy(...)" if "ndarray" in described else "torch.tensor(...)"
    if name == "q_start":
        convert = "torch.tensor([position], dtype=torch.int32, device=query.device)"
    assert _type_error(way, tensors, {}) == (
        f"biased_attention: {name} must be {kind}, got {described}; pass {convert}"
    )


@pytest.mark.parametrize("name", NAMES[:3])
def test_none_is_no_operand(name):
    message = _type_error(biased_attention, {**GOOD.tensors(), name: None}, {})
    assert message == f"biased_attention: {name} must be a torch.Tensor, got None"


@pytest.mark.parametrize("way", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", NESTED.values(), ids=NESTED)
def test_nested_tensors(way, name, layout):
    rows = [torch.zeros(2, 5, 8), torch.zeros(2, 3, 8)]
    nested = torch.nested.nested_tensor(rows, layout=layout)
    with pytest.raises(ValueError, match=f"{name} must be a strided tensor, got a nested one; pad"):
        way(**{**GOOD.tensors(), name: nested})


@pytest.mark.parametrize("way", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("name", NO_NUMBERS)
@pytest.mark.parametrize("value", [None, "1", 1j, [1], torch.tensor(1), np.array(1)], ids=repr)
def test_what_is_no_number(way, name, value):
    expected, advice = NO_NUMBERS[name]
    message = _type_error(way, GOOD.tensors(), {name: value})
    assert re.fullmatch(
        re.escape(f"biased_attention: {name} must be {expected}, got ") + ".+" + re.escape(advice),
        message,
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"window_left": True}, "window_left must be a whole number: .* got bool True"),
        ({"window_right": 2.0}, "window_right must be a whole number: .* got float 2.0"),
        ({"is_causal": 1}, "is_causal must be True or False, got int 1"),
        ({"softcap": False}, "softcap must be a number, got bool False"),
        ({"scale": "0.3"}, "scale must be a number or None, got str '0.3'"),
        ({"scale": True}, "scale must be a number or None, got bool True"),
        (
            {"scale": torch.ones((), requires_grad=True)},
            r"scale must be .* pass scale.item\(\), or",
        ),
    ],
)
def test_numbers_of_the_wrong_kind(options, text):
    assert re.match(
        f"biased_attention: {text}", _type_error(biased_attention, GOOD.tensors(), options)
    )


def test_numbers_of_other_libraries():
    tensors = GOOD.tensors()
    plain = biased_attention(**tensors, is_causal=True, window_left=2, scale=0.5, softcap=2.0)
    others = biased_attention(
        **tensors, is_causal=np.bool_(True), window_left=np.int64(2),
        scale=fractions.Fraction(1, 2), softcap=np.float32(2.0),
    )  # fmt: skip
    assert all(map(torch.equal, plain, others))


@pytest.mark.parametrize(
    "bad",
    [
        torch.quantize_per_tensor(torch.zeros(2, 4, 3, 8), 0.1, 0, torch.quint8),
        torch.zeros(2, 4, 3, 8).to(torch.float8_e4m3fn),
        torch.zeros(2, 4, 3, 8).to_mkldnn(),
        torch.zeros(8, 8).to_sparse_csr(),
    ],
    ids=["quantized", "float8", "mkldnn", "csr"],
)
@pytest.mark.parametrize("name", NAMES)
def test_tensors_of_other_kinds(name, bad):
    with pytest.raises(ValueError, match=f"biased_attention: {name} must "):
        biased_attention(**{**GOOD.tensors(), name: bad})


def test_types_are_checked_without_a_graph_break():
    """Symbolic sizes as windows, one graph for all of them."""
    tensors = list(GOOD.tensors().values())[:3]

    def run(query, key, value):
        return biased_attention(query, key, value, is_causal=True, window_left=key.shape[2] - 2)[0]

    compiled = torch.compile(run, fullgraph=True, backend="eager", dynamic=True)
    assert torch.equal(compiled(*tensors), run(*tensors))
    with pytest.raises(Exception, match=r"q_start must be a torch\.Tensor or None, got int 3"):
        torch.compile(
            lambda query: biased_attention(query, query, query, q_start=3)[0],
            fullgraph=True, backend="eager",
        )(tensors[0])  # fmt: skip
