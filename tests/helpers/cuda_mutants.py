# SPDX-License-Identifier: MIT
"""Errors planted in the CUDA kernel, one at a time, to see that the emulated tests notice each.

A mutant is a passage of a source file under csrc/attention/cuda and what stands there instead. The
passage must occur exactly once, so that a mutant cannot get lost when the kernel changes.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One planted error."""

    name: str
    path: str  # below csrc/attention/cuda
    passage: str
    instead: str
    everywhere: bool = False  # in PTX: every match, not the first of each kernel


_BARRIER_AND_COPIES = """\
    ptx::copy_async_wait<0>();
    __syncthreads();
    const bool has_next = block + 1 < end_block;
    if (has_next) {
      start_copies(block + 1);"""

SOURCE_MUTANTS = [
    # ---- barriers and copies
    Mutant(
        "no barrier before a block is computed",
        "sm80/forward.cuh",
        _BARRIER_AND_COPIES,
        _BARRIER_AND_COPIES.replace("    __syncthreads();\n", ""),
    ),
    Mutant(
        "a block is computed before its copies have landed",
        "sm80/forward.cuh",
        _BARRIER_AND_COPIES,
        _BARRIER_AND_COPIES.replace("    ptx::copy_async_wait<0>();\n", ""),
    ),
    Mutant(
        "the next block is copied before the barrier",
        "sm80/forward.cuh",
        _BARRIER_AND_COPIES,
        """\
    ptx::copy_async_wait<0>();
    const bool has_next = block + 1 < end_block;
    if (has_next) start_copies(block + 1);
    __syncthreads();
    if (has_next) {""",
    ),
    Mutant(
        "queries are read before their copies have landed",
        "sm80/forward.cuh",
        "      ptx::copy_async_wait<0>();\n      __syncthreads();\n      load_query",
        "      __syncthreads();\n      load_query",
    ),
    Mutant(
        "queries are read before other threads' copies have landed",
        "sm80/forward.cuh",
        "      ptx::copy_async_wait<0>();\n      __syncthreads();\n      load_query",
        "      ptx::copy_async_wait<0>();\n      load_query",
    ),
    Mutant(
        "out is staged while other warps still read the last block",
        "sm80/forward.cuh",
        "  __syncthreads();\n  write_out",
        "  write_out",
    ),
    Mutant(
        "out is read back before the warp has stored it",
        "sm80/epilogue.cuh",
        "  __syncwarp();\n",
        "",
    ),
    Mutant(
        "copies are never committed",
        "sm80/forward.cuh",
        "    ptx::copy_async_commit();\n",
        "",
    ),
    Mutant(
        "bias and influence are stored to the stage that is being read",
        "sm80/forward.cuh",
        "vectors.store((block + 1) % Traits::kStages)",
        "vectors.store(block % Traits::kStages)",
    ),
    # ---- addresses
    Mutant(
        "rows past the last key are read",
        "sm80/tile.cuh",
        "exists ? kChunkBytes : 0",
        "kChunkBytes",
    ),
    Mutant(
        "biases past the last key are read",
        "sm80/key_vectors.cuh",
        "sources_[i] != nullptr && k_idx < params.seqlen_k",
        "sources_[i] != nullptr",
    ),
    Mutant(
        "rows past the last query are written",
        "sm80/epilogue.cuh",
        "if (q_idx >= params.seqlen_q || elements <= 0) continue;",
        "if (elements <= 0) continue;",
    ),
    Mutant(
        "lse of rows past the last query is written",
        "sm80/epilogue.cuh",
        "lane % 4 == 0 && q_idx < params.seqlen_q",
        "lane % 4 == 0",
    ),
    Mutant(
        "chunks are looked for where others were stored",
        "sm80/products.cuh",
        "value, source.at(step * 16, i)",
        "value, source.at(step * 16, i ^ 2)",
    ),
    Mutant(
        "a head reads another group's keys",
        "sm80/forward.cuh",
        "head_idx / static_cast<int>(params.group_size)",
        "head_idx % static_cast<int>(params.num_kv_heads)",
    ),
    # ---- fragments
    Mutant(
        "two registers of the left operand are swapped",
        "sm80/products.cuh",
        "weights[row_tile][1] = ptx::pack<Element>(left[2], left[3]);\n"
        "      weights[row_tile][2] = ptx::pack<Element>(right[0], right[1]);",
        "weights[row_tile][2] = ptx::pack<Element>(left[2], left[3]);\n"
        "      weights[row_tile][1] = ptx::pack<Element>(right[0], right[1]);",
    ),
    Mutant(
        "values are read untransposed",
        "sm80/products.cuh",
        "ptx::load_matrices_transposed(value",
        "ptx::load_matrices(value",
    ),
    # ---- arithmetic
    Mutant(
        "the bias is dropped",
        "sm80/softmax.cuh",
        "score_of<kSoftcap, Math>(score, factors, e % 2 == 0 ? bias.x : bias.y)",
        "score_of<kSoftcap, Math>(score, factors, 0.f * bias.x)",
    ),
    Mutant(
        "the causal mask and the window are off by one",
        "sm80/visibility.cuh",
        "limits.begin <= k_idx && k_idx < limits.end ?",
        "limits.begin <= k_idx && k_idx <= limits.end ?",
    ),
    Mutant(
        "a block that is partly hidden counts as visible",
        "sm80/visibility.cuh",
        "return k_begin < all_.begin || k_begin + Traits::kBlockN > all_.end;",
        "return k_begin < all_.begin || k_begin > all_.end;",
    ),
    Mutant(
        "out keeps the scale of an older maximum",
        "sm80/forward.cuh",
        "      rescale<Traits>(rescale_factors, out);\n",
        "",
    ),
    Mutant(
        "influence keeps the scale of an older maximum",
        "sm80/softmax.cuh",
        "sum = fmaf(sum, factors[row_tile][half], block_sum[row_tile][half]);",
        "sum += block_sum[row_tile][half];",
    ),
    Mutant(
        "weights are rounded before they meet the influence",
        "sm80/softmax.cuh",
        "sum = fmaf(weights[row_tile][j][half * 2], influence.x, sum);",
        "sum = fmaf(ptx::from_bfloat16(static_cast<std::uint16_t>(ptx::pack<BFloat16>(\n"
        "            weights[row_tile][j][half * 2], 0.f))), influence.x, sum);",
    ),
    Mutant(
        "the sink does not join the denominator",
        "sm80/epilogue.cuh",
        "fmaf(row_sum, row_factor, rescale_factor<Math>(sink, total_max))",
        "row_sum * row_factor",
    ),
    Mutant(
        "a row without keys is divided by zero",
        "sm80/epilogue.cuh",
        "const float scale = sees_nothing ? 0.f : row_factor / total;",
        "const float scale = row_factor / total;",
    ),
    Mutant(
        "a hidden key with a dot product of NaN is not mended",
        "sm80/softmax.cuh",
        "    mend_hidden_keys<Traits>(vectors, stage, scores, block_max);\n",
        "",
    ),
    Mutant(
        "the second pass over the channels reads the first ones again",
        "forward.cpp",
        "    attention.influence += kMaxChannels * attention.influence_channel_stride;\n",
        "",
    ),
    Mutant(
        "a finite bias becomes infinite in bits",
        "math.cuh",
        "return -ptx::max_or_nan(-ptx::max_or_nan(a, -limit), -limit);",
        "return a;",
    ),
    Mutant(
        "a dense bias of -inf is added to NaN",
        "sm80/dense_bias.cuh",
        "score = bias == Math::negative_infinity() ? bias : score + bias;",
        "score = score + bias;",
    ),
]

# The same for the PTX that nvcc emits: what only the strings of ptx.cuh can get wrong. The passage
# is a regular expression.
PTX_MUTANTS = [
    Mutant("a matrix is read untransposed", "", r"\.x4\.trans\.shared", ".x4.shared"),
    Mutant("a matrix is read transposed", "", r"\.x4\.shared", ".x4.trans.shared"),
    Mutant(
        "two registers of the left operand are swapped",
        "",
        r"(mma\.sync\S+\s+\{[^}]*\}, \{)(%r\d+), (%r\d+)",
        r"\1\3, \2",
    ),
    Mutant(
        "two registers of the sums are swapped",
        "",
        r"(mma\.sync\S+\s+\{)(%f\d+), (%f\d+)",
        r"\1\3, \2",
    ),
    Mutant(
        "a copy reads past the end",
        "",
        r"(cp\.async\.cg\.shared\.global \[[^\]]*\], \[[^\]]*\], 16), %r\d+",
        r"\1, 16",
        everywhere=True,
    ),
    Mutant(
        "a group of copies may be under way",
        "",
        r"cp\.async\.wait_group 0",
        "cp.async.wait_group 1",
    ),
    Mutant("a group of copies is not closed", "", r"cp\.async\.commit_group;", ""),
    Mutant("a barrier is missing", "", r"\s(bar|barrier)\.sync\s+0;", " "),
]


def mutate_ptx(ptx: str, mutant: Mutant) -> str:
    """Plant an error in every kernel of a PTX file."""
    head, *kernels = re.split(r"(?=\.visible \.entry)", ptx)
    mutated = []
    for kernel in kernels:
        changed, count = re.subn(
            mutant.passage, mutant.instead, kernel, count=0 if mutant.everywhere else 1
        )
        if count == 0:
            raise ValueError(f"no {mutant.passage!r} in the PTX: {mutant.name}")
        mutated.append(changed)
    return head + "".join(mutated)


def mutate_source(text: str, mutant: Mutant) -> str:
    """Plant an error in a source file."""
    if text.count(mutant.passage) != 1:
        raise ValueError(f"{mutant.path} has not exactly one {mutant.passage!r}: {mutant.name}")
    return text.replace(mutant.passage, mutant.instead)
