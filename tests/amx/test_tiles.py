# SPDX-License-Identifier: MIT
"""What is special to the AMX kernel: what its tiles read beside what a row sees, and the model."""

import platform
import subprocess
import sys

import emulated_amx
import pytest
import torch
from attention_cases import TENSORS, Case, judge
from emulated_op import CannotBuildError


@pytest.fixture
def run(monkeypatch):
    monkeypatch.delenv("GUIDE_EXT_CPU_ISA", raising=False)
    try:
        op = emulated_amx.emulated_amx()
    except CannotBuildError as reason:
        pytest.skip(str(reason))
    return lambda tensors, options: op(*(tensors[name] for name in TENSORS), **options)


# Each stresses one part: K in place and packed, dimensions and keys that fill no tile, a second
# pass over scores, rows of several heads, weights that are paired late, split keys.
SHARP_CASES = {
    "in place": Case(head_dim=64, head_dim_v=96, seqlen_q=70, seqlen_k=256),
    "ragged": Case(head_dim=72, head_dim_v=41, seqlen_q=70, seqlen_k=300,
                   options={"is_causal": True, "window_left": 37}),
    "smallest": Case(head_dim=1, head_dim_v=1, seqlen_q=1, seqlen_k=17),
    "softcap": Case(head_dim=33, head_dim_v=17, seqlen_k=131, channels=2, options={"softcap": 2.0}),
    "bias per head, mixed tiles": Case(num_kv_heads=1, seqlen_q=3, seqlen_k=130, key_bias=(1, 4)),
    "dense bias": Case(attn_bias=(2, 4), attn_bias_dtype=torch.float32, q_start=(3, 21),
                       options={"is_causal": True, "window_right": 5}),
    "three channels": Case(channels=3, sinks=True, options={"is_causal": True}),
    "split keys": Case(batch=1, num_heads=1, num_kv_heads=1, seqlen_q=5, seqlen_k=1600,
                       key_bias=(1, 1), influence_batch=1),
}  # fmt: skip


@pytest.mark.parametrize("case", SHARP_CASES.values(), ids=SHARP_CASES)
def test_results_are_right(run, case):
    case = case.but(dtype=torch.bfloat16)
    tensors = case.tensors()
    judge(tensors, case.options, run(tensors, case.options))


def test_operands_may_lie_anywhere(run):
    case = Case(dtype=torch.bfloat16, head_dim=64, head_dim_v=64, seqlen_k=150)
    tensors = case.tensors()
    for name in ("query", "key", "value"):
        wide = torch.full((2, tensors[name].shape[1], 155, 69), torch.nan).bfloat16()
        view = wide[:, :, 1 : 1 + tensors[name].shape[2], 2:66]  # rows of an odd stride
        tensors[name] = view.copy_(tensors[name])
    judge(tensors, {}, run(tensors, {}))


# The keys that the one row of a call sees; whole pairs, as a pair shares its words. Tiles take keys
# by 32, blocks by 128.
@pytest.mark.parametrize(("begin", "end"), [(0, 6), (2, 64), (36, 60), (30, 128), (94, 190)])
@pytest.mark.parametrize(("head_dim", "head_dim_v"), [(32, 16), (20, 40)])
def test_what_no_row_sees_may_be_infinite(run, begin, end, head_dim, head_dim_v):
    options = {"is_causal": True, "window_left": end - 1 - begin}
    case = Case(dtype=torch.bfloat16, batch=1, seqlen_q=1, seqlen_k=200, q_start=(end - 1,))
    case = case.but(key_bias=None, influence_batch=1, head_dim=head_dim, head_dim_v=head_dim_v)
    tensors = case.tensors()
    clean = run(tensors, options)
    for name, poison in (("key", torch.nan), ("value", torch.inf)):
        tensors[name][:, :, :begin] = poison
        tensors[name][:, :, end:] = poison
    for expected, actual in zip(clean, run(tensors, options), strict=True):
        assert actual.equal(expected)


# Sizes that leave every kind of room in a tile: dimensions, keys, half a word of keys.
@pytest.mark.parametrize("sizes", [(20, 3, 31), (33, 17, 131), (64, 48, 40)], ids=str)
def test_nothing_is_left_of_an_earlier_call(run, sizes):
    """The scratch memory of a call is often that of the one before, full of NaN here."""
    head_dim, head_dim_v, seqlen_k = sizes
    case = Case(dtype=torch.bfloat16, head_dim=head_dim, head_dim_v=head_dim_v, seqlen_k=seqlen_k)
    tensors = case.tensors()
    poison = {name: torch.full_like(tensors[name], torch.nan) for name in ("query", "key", "value")}
    results = []
    for _ in range(3):
        assert run(tensors | poison, {})[0].isnan().all()
        results.append(run(tensors, {}))
    for result in results:
        judge(tensors, {}, result)


# Operands whose last number lies before a page that nobody may read.
GUARDED = """
import ctypes, mmap, sys
import torch
sys.path.insert(0, sys.argv[1])
import emulated_amx
op = emulated_amx.emulated_amx()
libc, page, kept = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE, []

def at_the_end(tensor):
    size = tensor.numel() * tensor.element_size()
    pages = -(-size // page)
    memory = mmap.mmap(-1, (pages + 1) * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    guard = ctypes.c_void_p(start + pages * page)
    assert libc.mprotect(guard, ctypes.c_size_t(page), 0) == 0, ctypes.get_errno()
    kept.append(memory)
    flat = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(),
                            offset=pages * page - size)
    flat.copy_(tensor.flatten())
    return flat.view(tensor.shape)

cases = ((33, 64, 64), (64, 64, 64), (130, 32, 8), (64, 20, 3), (31, 20, 3), (1, 1, 1))
for seqlen_k, head_dim, head_dim_v in cases:
    sizes = ((1, 2, 35, head_dim), (1, 1, seqlen_k, head_dim), (1, 1, seqlen_k, head_dim_v))
    operands = [torch.randn(size).bfloat16() for size in sizes]
    expected = op(*operands)
    for actual, plain in zip(op(*map(at_the_end, operands)), expected):
        assert actual.equal(plain)
print("read no further")
"""


def test_nothing_is_read_behind_the_operands(run):
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, str(emulated_amx.ROOT / "tests" / "helpers")],
        cwd=emulated_amx.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "read no further\n", (done.returncode, done.stderr)


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux tells of its registers")
def test_the_model_is_the_processor(run):
    """Compare them bit by bit where the processor has tiles."""
    found = torch.cpu.get_capabilities()
    has_tiles = found.get("amx_tile") and found.get("amx_bf16")
    done = subprocess.run(
        [emulated_amx.BUILD_DIR / "amx_probe"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (
        (0, "0 of 51200 words differ\n") if has_tiles else (2, "no AMX\n")
    )
