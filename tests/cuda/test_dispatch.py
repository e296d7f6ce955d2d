# SPDX-License-Identifier: MIT
"""Which implementation takes a call on a CUDA device, in words and in deed; needs no GPU."""

import re

import emulated_op
import pytest
import torch
from attention_cases import TENSORS, Case, judge
from torch._subclasses import FakeTensorMode

from guide_ext.op import chunked, libraries
from guide_ext.op.attention import explain_dispatch
from guide_ext.op.call import AttentionCall
from guide_ext.op.dispatch import CallDescription, describe

SMALL = Case(batch=1, seqlen_q=5, seqlen_k=9, influence_batch=1, key_bias=(1, 1),
             dtype=torch.bfloat16)  # fmt: skip


@pytest.fixture(scope="module")
def emulated():
    try:
        return emulated_op.emulated_op(emulated_op.SOURCE)
    except emulated_op.CannotBuildError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def cuda_library(monkeypatch, emulated):
    """Ask the emulated library, whose choice is the product's, as if it were the loaded one."""
    monkeypatch.setattr(libraries, "_cuda_load_error", None)
    monkeypatch.setattr(libraries, "CUDA_LIBRARY_PATH", emulated_op.build(emulated_op.SOURCE))


def _fake(tensor, device="cuda"):
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


def _explain(case, device="cuda"):
    tensors = case.tensors()
    with FakeTensorMode():
        fakes = {n: None if t is None else _fake(t, device) for n, t in tensors.items()}
        return explain_dispatch(**fakes, **case.options)


@pytest.mark.usefixtures("cuda_library")
def test_the_fast_kernels_need_no_excuse():
    for channels in (None, 1, 2):
        assert _explain(SMALL.but(channels=channels)).reasons == ()
    assert _explain(SMALL).kernel == "cuda/sm80"


@pytest.mark.usefixtures("cuda_library")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": 3}, "influence has 3 channels: up to 2 have a kernel of their own, this call "
                          "takes 1 launch of up to 8 channels"),
        ({"channels": 17}, "this call takes 3 launches of up to 8 channels"),
        ({"head_dim": 36}, "query does not have all its rows at multiples of 16 bytes: they are "
                           "gathered element by element; make the head dimension and the strides "
                           "multiples of 8"),
        ({"head_dim_v": 36}, "value does not have all its rows at multiples of 16 bytes"),
        ({"attn_bias": (1, 1)}, "attn_bias is dense"),
    ],
    ids=str,
)  # fmt: skip
def test_the_general_kernels_say_why(changes, words):
    dispatch = _explain(SMALL.but(**changes))
    assert dispatch.kernel == "cuda/sm80"
    assert words in "\n".join(dispatch.reasons)


@pytest.mark.usefixtures("cuda_library")
def test_a_dense_bias_hides_no_other_reason():
    dispatch = _explain(SMALL.but(attn_bias=(1, 1), channels=9, head_dim=36))
    assert dispatch.kernel == "cuda/sm80"
    assert [reason.split()[0] for reason in dispatch.reasons] == [
        *("query", "key", "influence", "attn_bias"),
    ]  # fmt: skip
    assert "takes 2 launches of up to 8 channels" in dispatch.reasons[2]


@pytest.mark.usefixtures("cuda_library")
def test_the_short_form_of_influence_is_one_channel():
    tensors = SMALL.tensors()
    tensors = [tensors[n] for n in ("query", "key", "value")] + [tensors["influence"][:, 0]]
    with FakeTensorMode():
        query, key, value, influence = map(_fake, tensors)
        assert explain_dispatch(query, key, value, influence=influence).reasons == ()


def test_a_call_is_described_in_full():
    """What changes no word today too: a further kernel may look at it."""
    tensors = SMALL.but(batch=2, attn_bias=(1, 1), head_dim_v=24, channels=3).tensors()
    options = {"is_causal": True, "window_left": 7, "window_right": 2, "softcap": 0.5}
    call = describe(AttentionCall(**tensors, **options))
    found = {name: getattr(call, name) for name, _ in call._fields_}
    assert [*found.pop("addresses")] == [tensors[n].data_ptr() for n in ("query", "key", "value")]
    assert [*found.pop("strides")] == [
        stride for n in ("query", "key", "value") for stride in tensors[n].stride()[:3]
    ]
    assert found == {
        "dtype": b"bfloat16", "batch": 2, "num_heads": 4, "num_kv_heads": 2, "seqlen_q": 5,
        "seqlen_k": 9, "head_dim": 32, "head_dim_v": 24, "channels": 3, "has_key_bias": 1,
        "has_attn_bias": 1, "has_sinks": 0, "has_q_start": 0, **options,
    }  # fmt: skip


def test_the_description_is_the_same_in_c():
    """Name by name and in order: ctypes would not notice a field that moved."""
    header = (emulated_op.ROOT / "csrc" / "attention" / "explain.h").read_text()
    body = re.search(r"struct CallDescription \{(.*?)\n\};", header, re.DOTALL)[1]
    operands = ("query", "key", "value")
    expanded = {
        "addresses": [f"{name}_address" for name in operands],
        "strides": [f"{name}_strides" for name in operands],
    }
    in_python = [
        field for name, _ in CallDescription._fields_ for field in expanded.get(name, [name])
    ]
    assert re.findall(r"^  \S+(?: char\*)? (\w+);", body, re.MULTILINE) == in_python


def _blamed(query, key, value):
    """Name the tensors that a choice for real ones complains of."""
    call = describe(AttentionCall(query, key, value))
    kernel, *reasons = libraries.ask_for_kernel(torch.device("cuda"), call).split("\n")
    assert kernel == "cuda/sm80"
    return [reason.split()[0] for reason in reasons]


@pytest.mark.usefixtures("cuda_library")
@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_where_a_tensor_begins_counts(name):
    """A view that begins amid 16 bytes, which strides alone do not show."""
    operand = torch.zeros(1, 1, 5, 24, dtype=torch.float16)
    tensors = dict.fromkeys(("query", "key", "value"), operand[..., :8])
    assert _blamed(**tensors) == []
    assert _blamed(**tensors | {name: operand[..., 8:16]}) == []
    assert _blamed(**tensors | {name: operand[..., 1:9]}) == [name]


@pytest.mark.usefixtures("cuda_library")
@pytest.mark.parametrize("name", ["query", "key", "value"])
@pytest.mark.parametrize("dim", [0, 1, 2], ids=["batch", "head", "row"])
def test_every_stride_counts(name, dim):
    operand = torch.zeros(2, 2, 2, 8, dtype=torch.float16)
    strides = [128, 64, 16, 1]
    strides[dim] += 4  # no multiple of 16 bytes
    view = torch.zeros(512, dtype=torch.float16).as_strided(operand.shape, strides)
    tensors = dict.fromkeys(("query", "key", "value"), operand)
    assert _blamed(**tensors | {name: view}) == [name]


@pytest.mark.usefixtures("cuda_library")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": torch.float32}, "query is float32: the compiled CUDA kernels take float16 and "
                                   "bfloat16"),
        ({"dtype": torch.float64}, "query is float64: the compiled CUDA kernels take"),
        ({"head_dim": 257}, "query has a head dimension of 257: the compiled CUDA kernel takes at "
                            "most 256"),
        ({"head_dim_v": 300}, "value has a head dimension of 300"),
        ({}, None),
        ({"head_dim": 256, "head_dim_v": 256}, None),
        ({"dtype": torch.float16, "head_dim": 1, "head_dim_v": 1}, None),
    ],
    ids=str,
)  # fmt: skip
def test_words_and_deeds_agree(monkeypatch, emulated, changes, words):
    case = SMALL.but(**changes)
    runs = []
    forward = chunked.forward
    monkeypatch.setattr(chunked, "forward", lambda call: runs.append(call) or forward(call))
    tensors = case.tensors()
    judge(tensors, case.options, emulated.run(*(tensors[name] for name in TENSORS)))
    dispatch = _explain(case)
    assert (dispatch.kernel == "chunked PyTorch") == bool(runs) == (words is not None)
    assert words is None or any(words in reason for reason in dispatch.reasons)


def test_without_the_cuda_library(monkeypatch):
    monkeypatch.setattr(libraries, "_cuda_load_error", "libguide_ext_cuda.so was not built")
    dispatch = _explain(SMALL)
    assert str(dispatch) == "chunked PyTorch\n  - libguide_ext_cuda.so was not built"


@pytest.mark.usefixtures("cuda_library")
def test_an_old_device_is_named():
    dispatch = _explain(SMALL.but(dtype=torch.float32), "cuda:1")
    assert dispatch.kernel == "chunked PyTorch"
    assert dispatch.reasons == (
        "the device has compute capability 7.5: the CUDA kernels need at least 8.0",
        "query is float32: the compiled CUDA kernels take float16 and bfloat16",
    )


@pytest.mark.usefixtures("cuda_library")
@pytest.mark.parametrize(
    ("query_sizes", "key_rows", "words"),
    [
        ((1, 1, 1), (1 << 30) + 1, "key has 1073741825 rows: the compiled CUDA kernel takes at"),
        ((1, 1, (1 << 30) + 1), 1, "query has 1073741825 rows: the compiled CUDA kernel takes at"),
        ((1 << 12, 1 << 12, 1 << 13), 1, "query has 128 blocks of 64 rows in each of 4096 heads "
                                         "and 4096 batch entries: the compiled CUDA kernel takes"),
    ],
)  # fmt: skip
def test_very_large_calls_go_to_pytorch(query_sizes, key_rows, words):
    with FakeTensorMode():
        element = torch.empty(1, 1, 1, 8, dtype=torch.float16, device="cuda")
        query = element.expand(*query_sizes, 8)
        key = element.expand(*query_sizes[:2], key_rows, 8)
        dispatch = explain_dispatch(query, key, key)
    assert dispatch.kernel == "chunked PyTorch"
    (reason,) = dispatch.reasons
    assert reason.startswith(words)


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch was built with CUDA")
def test_a_torch_without_cuda_is_named():
    assert libraries.cuda_status().reason.endswith("was built without CUDA")
