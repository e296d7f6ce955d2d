# SPDX-License-Identifier: MIT
"""The op inside torch: schema, fake kernels, compile, export, autocast, memory, explanation."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from attention_cases import Case
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from guide_ext.op import chunked, chunked_backward, libraries, registration
from guide_ext.op.attention import biased_attention, explain_dispatch

SCHEMA = (
    "guide::{}(Tensor query, Tensor key, Tensor value, Tensor? key_bias=None, "
    "Tensor? influence=None, Tensor? attn_bias=None, Tensor? sinks=None, Tensor? q_start=None, *, "
    "bool is_causal=False, SymInt window_left=-1, SymInt window_right=-1, float? scale=None, "
    "float softcap=0.) -> (Tensor out, Tensor influence_out, Tensor lse)"
)
SMALL = Case(seqlen_q=5, seqlen_k=9, head_dim=8, head_dim_v=4, options={"is_causal": True})
OPCHECK = {
    "plain": Case(seqlen_q=5, seqlen_k=9, key_bias=None, channels=None),
    "causal": SMALL,
    "decode": SMALL.but(seqlen_q=1, dtype=torch.bfloat16, channels=2),
    "everything": SMALL.but(
        attn_bias=(1, 1), attn_bias_dtype=torch.float32, sinks=True, q_start=(1, 4),
        options={"window_left": 3, "window_right": 1, "softcap": 2.0, "scale": 0.5},
    ),
}  # fmt: skip
OPS = {"op": "biased_attention", "chunked": "biased_attention_chunked"}


def _op(name):
    return getattr(torch.ops.guide, name).default


@pytest.mark.parametrize("name", OPS.values())
def test_schema(name):
    assert str(_op(name)._schema) == SCHEMA.format(name)


@pytest.mark.parametrize("name", registration.SCHEMAS)
def test_schemas_of_the_library_and_of_python_are_equal(name):
    assert str(torch._C.parse_schema(f"guide::{registration.SCHEMAS[name]}")) == str(
        _op(name)._schema
    )


@pytest.mark.parametrize("name", OPS.values(), ids=OPS)
@pytest.mark.parametrize("case", OPCHECK.values(), ids=OPCHECK)
@pytest.mark.parametrize("needs_grad", [False, True], ids=["inference", "training"])
def test_opcheck(name, case, needs_grad):
    tensors = case.tensors()
    for tensor in tensors.values():
        if needs_grad and tensor is not None and tensor.is_floating_point():
            tensor.requires_grad_()
    torch.library.opcheck(_op(name), tuple(tensors.values()), case.options)


@pytest.mark.parametrize("name", ["biased_attention_backward", "biased_attention_backward_chunked"])
def test_opcheck_of_the_backward_op(name):
    tensors = SMALL.but(sinks=True).tensors()
    outputs = biased_attention(*tensors.values(), is_causal=True)
    gradients = [torch.randn_like(output) for output in outputs]
    torch.library.opcheck(
        _op(name),
        (*gradients, *tensors.values(), *outputs),
        {"is_causal": True, "window_left": -1, "window_right": -1, "scale": None, "softcap": 0.0}
        | {"wanted": [True] * 5 + [False, True]},
    )


def _steered(query, key, value, key_bias, influence):
    out, influence_out, lse = biased_attention(
        query, key, value, key_bias, influence, is_causal=True, window_left=6
    )
    return out * 2, influence_out.mean(2), lse


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compile_without_graph_break(compiler):
    tensors = list(SMALL.tensors().values())[:5]
    leaves = [tensor.requires_grad_() for tensor in tensors]
    compiled = torch.compile(_steered, fullgraph=True, backend=compiler)
    results, expected = compiled(*tensors), _steered(*tensors)
    for result, truth in zip(results, expected, strict=True):
        torch.testing.assert_close(result, truth)
        assert result.stride() == truth.stride()
    gradients = torch.autograd.grad(results[0].sum() + results[1].sum(), leaves)
    truths = torch.autograd.grad(expected[0].sum() + expected[1].sum(), leaves)
    for gradient, truth in zip(gradients, truths, strict=True):
        torch.testing.assert_close(gradient, truth)


def test_compile_once_for_all_lengths():
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(_steered, fullgraph=True, backend=counter, dynamic=True)
    frames = []
    for seqlen_k in (9, 10, 33):
        tensors = list(SMALL.but(seqlen_k=seqlen_k).tensors().values())[:5]
        for result, truth in zip(compiled(*tensors), _steered(*tensors), strict=True):
            torch.testing.assert_close(result, truth)
        frames.append(counter.frame_count)
    assert frames == frames[:1] * 3


class _Steered(torch.nn.Module):
    def forward(self, query, key, value, key_bias, influence):
        return _steered(query, key, value, key_bias, influence)


def test_export_with_dynamic_lengths():
    tensors = tuple(SMALL.tensors().values())[:5]
    keys = torch.export.Dim("seqlen_k", min=2)
    shapes = [{2: torch.export.Dim("seqlen_q", min=2)}, {2: keys}, {2: keys}, {2: keys}, {2: keys}]
    program = torch.export.export(
        _Steered(), tensors, dynamic_shapes=dict(zip(_NAMES, shapes, strict=True))
    )
    other = tuple(SMALL.but(seqlen_q=7, seqlen_k=20).tensors().values())[:5]
    for result, truth in zip(program.module()(*other), _steered(*other), strict=True):
        assert result.equal(truth)


_NAMES = ("query", "key", "value", "key_bias", "influence")


def test_autocast_casts_the_operands_alone():
    tensors = SMALL.tensors()
    leaf = tensors["query"].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = biased_attention(*tensors.values(), is_causal=True)
    by_hand = {n: t.bfloat16() if n in _NAMES[:3] else t for n, t in tensors.items()}
    expected = biased_attention(*by_hand.values(), is_causal=True)
    assert results[0].dtype == torch.bfloat16
    for result, truth in zip(results, expected, strict=True):
        assert result.equal(truth)
    results[0].sum().backward()
    assert leaf.grad.dtype == torch.float32


def test_autocast_leaves_float64_alone():
    tensors = SMALL.but(dtype=torch.float64).tensors()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert biased_attention(*tensors.values())[0].dtype == torch.float64


def test_autocast_leaves_accumulation_alone():
    tensors = list(SMALL.tensors().values())
    run = torch.ops.guide.biased_attention_chunked
    leaf = tensors[0].requires_grad_()
    outputs = run(*tensors)
    expected = torch.autograd.grad(outputs[0].sum(), leaf, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = run(*tensors)
        gradient = torch.autograd.grad(outputs[0], leaf, torch.ones_like(outputs[0]))
    for result, truth in zip((*again, *gradient), (*outputs, *expected), strict=True):
        assert result.equal(truth)


def test_devices_without_autocast_have_none_to_switch_off():
    assert not torch.amp.is_autocast_available("meta")
    with registration._float32_products(torch.empty(1, device="meta")):
        pass


@pytest.mark.parametrize("key", ["AutocastCPU", "AutocastCUDA"])
def test_autocast_is_registered(key):
    assert torch._C._dispatch_has_kernel_for_dispatch_key("guide::biased_attention", key)


def test_inference_mode():
    tensors = SMALL.tensors()
    expected = biased_attention(*tensors.values())
    with torch.inference_mode():
        results = biased_attention(*tensors.values())
    for result, truth in zip(results, expected, strict=True):
        assert result.is_inference()
        assert result.equal(truth)


def test_other_devices_have_shapes():
    tensors = {n: t if t is None else t.to("meta") for n, t in SMALL.tensors().items()}
    out, influence_out, lse = biased_attention(*tensors.values())
    assert out.shape == (2, 4, 5, 4)
    assert out.transpose(1, 2).is_contiguous()
    assert (influence_out.shape, lse.shape) == ((2, 1, 4, 5), (2, 4, 5))


def test_shorthands():
    tensors = SMALL.tensors()
    expected = biased_attention(*tensors.values())
    tensors |= {name: tensors[name].squeeze(1) for name in ("key_bias", "influence")}
    assert tensors["key_bias"].shape == tensors["influence"].shape == (2, 9)
    results = biased_attention(*tensors.values())
    assert results[1].shape == (2, 1, 4, 5)
    for result, truth in zip(results, expected, strict=True):
        assert result.equal(truth)


class _LargestTensor(TorchDispatchMode):
    """Remember how many elements the largest tensor has that any operation makes of inputs."""

    def __init__(self, inputs=()):
        super().__init__()
        self.elements = 0
        self.inputs = [t.untyped_storage().data_ptr() for t in inputs if t is not None]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            is_tensor = isinstance(leaf, torch.Tensor)
            if is_tensor and leaf.untyped_storage().data_ptr() not in self.inputs:
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // 4)
        return result


@pytest.mark.parametrize("heads", [(8, 8), (8, 2)], ids=str)
def test_chunked_scratch_is_bounded(monkeypatch, heads):
    limit = 1 << 14
    monkeypatch.setattr(chunked, "SCRATCH_ELEMENTS", limit)
    monkeypatch.setattr(chunked, "MAX_BLOCK_K", 64)
    case = Case(batch=1, num_heads=heads[0], num_kv_heads=heads[1], seqlen_q=130, seqlen_k=190,
                head_dim=8, head_dim_v=8, key_bias=(1, 1), influence_batch=1)  # fmt: skip
    tensors = tuple(case.tensors().values())
    call = chunked.ChunkedCall(*tensors, is_causal=True, window_right=50, softcap=2.0)
    with _LargestTensor() as largest:
        outputs = chunked.forward(call)
        gradients = chunked_backward.OutputGradients(
            *(torch.ones_like(output) for output in outputs)
        )
        chunked_backward.backward(call, outputs, gradients, [True] * 7)
    assert case.num_heads * case.seqlen_q * case.seqlen_k > 4 * limit
    assert largest.elements <= limit


def test_chunked_scratch_is_bounded_in_batches_of_one_row(monkeypatch):
    limit = 1 << 14
    monkeypatch.setattr(chunked, "SCRATCH_ELEMENTS", limit)
    monkeypatch.setattr(chunked, "MAX_BLOCK_K", 64)
    case = Case(batch=16, num_heads=8, num_kv_heads=8, seqlen_q=1, seqlen_k=190, head_dim=24,
                head_dim_v=8, key_bias=(1, 1), influence_batch=1, dtype=torch.bfloat16)  # fmt: skip
    tensors = tuple(case.tensors().values())
    call = chunked.ChunkedCall(*tensors, is_causal=True, window_right=50, softcap=2.0)
    with _LargestTensor(tensors) as largest:
        chunked.forward(call)
    assert 0 < largest.elements <= limit


_PEAK_MEMORY = """
import resource, torch
from guide_ext.op import registration
size = {size}
operand = torch.randn(1, 1, size, 16, requires_grad=True)
marks = torch.rand(1, 1, size)
run = torch.ops.guide.{name}
run(operand[:, :, :64], operand, operand, None, marks)[0].sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(operand, operand, operand, None, marks, is_causal=True)[0].sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@pytest.mark.long
@pytest.mark.parametrize("name", OPS.values(), ids=OPS)
def test_peak_memory_is_never_n_by_n(name):
    size = 8192
    script = _PEAK_MEMORY.format(size=size, name=name)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < size * size * 4 / 2


def test_library_status():
    status = libraries.library_status()
    assert status.loaded == libraries.LIBRARY_PATH.exists()
    assert status.loaded == (status.instruction_set is not None)
    assert str(libraries.LIBRARY_PATH.parent) in status.reason


_FORCED = """
import torch
from guide_ext.attention import biased_attention, explain_dispatch
operand = torch.zeros(1, 1, 1, 1)
print(explain_dispatch(operand, operand, operand))
biased_attention(operand, operand, operand)
"""


@pytest.mark.parametrize("forced", ["portable", "mmx"])
def test_forced_instruction_set_is_explained(monkeypatch, forced):
    if not libraries.library_status().loaded:
        pytest.skip(libraries.library_status().reason)
    monkeypatch.setenv("GUIDE_EXT_CPU_ISA", forced)
    done = subprocess.run([sys.executable, "-c", _FORCED], capture_output=True, text=True)
    if forced == "portable":
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("cpu/portable\n  - GUIDE_EXT_CPU_ISA=portable chooses the")
    else:
        assert (
            "GUIDE_EXT_CPU_ISA=mmx names no instruction set that was built and that this processor "
            "has: every call on the CPU raises"
        ) in done.stdout
        assert "RuntimeError" in done.stderr


def test_explain_dispatch_of_the_compiled_kernel(monkeypatch):
    monkeypatch.delenv("GUIDE_EXT_CPU_ISA", raising=False)
    if not libraries.library_status().loaded:
        pytest.skip(libraries.library_status().reason)
    dispatch = explain_dispatch(*SMALL.tensors().values())
    assert dispatch.kernel == f"cpu/{libraries.library_status().instruction_set}"
    assert dispatch.reasons == ()


@pytest.mark.parametrize(
    ("head_dim", "head_dim_v", "blamed"),
    [(512, 512, []), (513, 1, ["query"]), (1, 513, ["value"]), (600, 700, ["query", "value"])],
)
def test_explain_dispatch_tells_which_implementation_runs(
    monkeypatch, head_dim, head_dim_v, blamed
):
    if not libraries.library_status().loaded:
        pytest.skip(libraries.library_status().reason)
    monkeypatch.delenv("GUIDE_EXT_CPU_ISA", raising=False)
    runs = []
    forward = chunked.forward
    monkeypatch.setattr(chunked, "forward", lambda call: runs.append(call) or forward(call))
    tensors = SMALL.but(head_dim=head_dim, head_dim_v=head_dim_v).tensors().values()
    biased_attention(*tensors)
    dispatch = explain_dispatch(*tensors)
    assert (dispatch.kernel == "chunked PyTorch") == bool(runs) == bool(blamed)
    sizes = {"query": head_dim, "value": head_dim_v}
    assert dispatch.reasons == tuple(
        f"{name} has a head dimension of {sizes[name]}: the compiled CPU kernel takes at most 512"
        for name in blamed
    )


def test_explain_dispatch_without_library(monkeypatch):
    monkeypatch.setattr(libraries, "_load_error", "libguide_ext.so was not built")
    dispatch = explain_dispatch(*SMALL.tensors().values())
    assert dispatch.kernel == "chunked PyTorch"
    assert str(dispatch) == "chunked PyTorch\n  - libguide_ext.so was not built"


def test_explain_dispatch_lists_every_reason():
    tensors = SMALL.but(dtype=torch.float64, attn_bias=(1, 1), q_start=(2,)).tensors()
    dispatch = explain_dispatch(*tensors.values(), is_causal=True)
    assert dispatch.kernel == "chunked PyTorch"
    words = " ".join(dispatch.reasons)
    assert "query is float64: the compiled CPU kernels take float16, bfloat16 and float32" in words
    assert "attn_bias is dense" in words
    assert "q_start is read on the device" in words


def test_calls_of_several_threads_at_the_same_time():
    """Each call has its own memory; all take their workers from one pool."""
    cases = [Case(seqlen_q=1, seqlen_k=2100, head_dim=128, head_dim_v=128),
             Case(seqlen_q=130, seqlen_k=300, channels=2, options={"is_causal": True}),
             Case(seqlen_q=70, seqlen_k=140, dtype=torch.bfloat16)]  # fmt: skip
    calls = [(case.tensors(), case.options) for case in cases]

    def run(call):
        tensors, options = call
        return torch.ops.guide.biased_attention(*tensors.values(), **options)

    wanted = [run(call) for call in calls]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, calls * 20))
    for index, results in enumerate(found):
        for result, expected in zip(results, wanted[index % len(calls)], strict=True):
            assert torch.equal(result, expected)
