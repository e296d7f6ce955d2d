# SPDX-License-Identifier: MIT
"""Which implementation takes a call on a CUDA device, in words and in deed; needs no GPU."""

import re

import emulated_op
import pytest
import torch
from attention_cases import TENSORS, Case, judge
from torch._subclasses import FakeTensorMode

from guide_ext.op import chunked as _chunked
from guide_ext.op import dispatch as _dispatch
from guide_ext.op import libraries as _libraries
from guide_ext.op.attention import explain_dispatch

SMALL = Case(batch=1, seqlen_q=5, seqlen_k=9, influence_batch=1, key_bias=(1, 1),
             dtype=torch.bfloat16)  # fmt: skip
HEADERS = emulated_op.ROOT / "csrc" / "attention" / "cuda"


@pytest.fixture
def cuda_library(monkeypatch):
    """Explain as if the CUDA library were loaded and its device were good."""
    monkeypatch.setattr(_libraries, "_cuda_load_error", None)
    monkeypatch.setattr(_dispatch, "cuda_device_obstacle", lambda index: None)


@pytest.fixture(scope="module")
def emulated():
    try:
        return emulated_op.emulated_op(emulated_op.SOURCE)
    except emulated_op.CannotBuildError as reason:
        pytest.skip(str(reason))


def _explain(case):
    tensors = case.tensors()
    with FakeTensorMode():
        fakes = {
            name: None
            if tensor is None
            else torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda"
            )
            for name, tensor in tensors.items()
        }
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
                          "takes 1 launch of the general one, 8 channels each"),
        ({"channels": 17}, "this call takes 3 launches of the general one"),
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
    forward = _chunked.forward
    monkeypatch.setattr(_chunked, "forward", lambda call: runs.append(call) or forward(call))
    tensors = case.tensors()
    judge(tensors, case.options, emulated.run(*(tensors[name] for name in TENSORS)))
    dispatch = _explain(case)
    assert (dispatch.kernel == "chunked PyTorch") == bool(runs) == (words is not None)
    assert words is None or any(words in reason for reason in dispatch.reasons)


def test_without_the_cuda_library(monkeypatch):
    monkeypatch.setattr(_libraries, "_cuda_load_error", "libguide_ext_cuda.so was not built")
    dispatch = _explain(SMALL)
    assert str(dispatch) == "chunked PyTorch\n  - libguide_ext_cuda.so was not built"


def test_an_old_device_is_named(monkeypatch):
    monkeypatch.setattr(_libraries, "_cuda_load_error", None)
    monkeypatch.setattr(_dispatch, "cuda_device_obstacle", lambda index: f"device {index} is old")
    assert _explain(SMALL).reasons == ("device 0 is old",)


def test_very_long_sequences_go_to_pytorch():
    with FakeTensorMode():
        query = torch.empty(1, 1, 1, 8, dtype=torch.float16, device="cuda")
        key = query.expand(1, 1, (1 << 30) + 1, 8)
        reasons = explain_dispatch(query, key, key).reasons
    assert any("key has 1073741825 rows" in reason for reason in reasons)


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch was built with CUDA")
def test_a_torch_without_cuda_is_named():
    assert _libraries.cuda_status().reason.endswith("was built without CUDA")


@pytest.mark.parametrize(
    ("path", "constant", "value"),
    [
        ("forward.h", r"kMaxHeadDim = (\d+)", _dispatch.MAX_HEAD_DIM["cuda"]),
        ("instances.h", r"kMaxChannels = (\d+)", _dispatch.CUDA_CHANNELS_PER_LAUNCH),
        ("sm80/forward.cuh", r"attention\.channels > (\d+)", _dispatch.CUDA_FAST_CHANNELS),
    ],
)
def test_limits_are_those_of_the_kernels(path, constant, value):
    assert re.findall(constant, (HEADERS / path).read_text()) == [str(value)]
