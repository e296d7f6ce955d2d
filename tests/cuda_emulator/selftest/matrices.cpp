// SPDX-License-Identifier: MIT
// ldmatrix and mma.sync. The fragments come from and go to global memory as they are: which element
// is where is what the test checks.
#include "selftest.h"

namespace selftest {
namespace {

using guide::cuda::BFloat16;
using guide::cuda::Float16;

// Input: for each lane 4 registers of a, 2 of b, 4 sums. Output: 4 sums.
template <class Element>
__global__ void multiply(const __grid_constant__ Arguments arguments) {
  const unsigned lane = threadIdx.x;
  std::uint32_t a[4], b[2];
  float sums[4];
  for (unsigned i = 0; i < 4; ++i) a[i] = input<std::uint32_t>(arguments, lane * 10 + i);
  for (unsigned i = 0; i < 2; ++i) b[i] = input<std::uint32_t>(arguments, lane * 10 + 4 + i);
  for (unsigned i = 0; i < 4; ++i) sums[i] = input<float>(arguments, lane * 10 + 6 + i);
  ptx::mma_m16n8k16<Element>(sums, a, b[0], b[1]);
  for (unsigned i = 0; i < 4; ++i) set_output(arguments, lane * 4 + i, sums[i]);
}

constexpr auto multiply_bfloat16 = multiply<BFloat16>;
constexpr auto multiply_float16 = multiply<Float16>;

// Input: 32 rows of 16 bytes. Row `lane` is put `option` bytes after the one before and is the one
// whose address lane `lane` gives. Output: 4 registers for each lane.
template <bool kTransposed>
__global__ void load(const __grid_constant__ Arguments arguments) {
  const unsigned lane = threadIdx.x;
  const std::uint32_t row = ptx::shared_memory() + lane * static_cast<unsigned>(arguments.option);
  ptx::store_shared_chunk(row, input<uint4>(arguments, lane));
  __syncwarp();
  std::uint32_t registers[4];
  if constexpr (kTransposed) {
    ptx::load_matrices_transposed(registers, row);
  } else {
    ptx::load_matrices(registers, row);
  }
  for (unsigned i = 0; i < 4; ++i) set_output(arguments, lane * 4 + i, registers[i]);
}

constexpr auto load_plain = load<false>;
constexpr auto load_transposed = load<true>;

}  // namespace

SELFTEST_RUN(multiply_bfloat16, dim3(1), 32, 0)
SELFTEST_RUN(multiply_float16, dim3(1), 32, 0)
SELFTEST_RUN(load_plain, dim3(1), 32, 8192)
SELFTEST_RUN(load_transposed, dim3(1), 32, 8192)

}  // namespace selftest
