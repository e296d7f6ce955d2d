// SPDX-License-Identifier: MIT
// Every wrapper of ptx.cuh at work in two warps, compiled by nvcc for test_ptx_translator_nvcc.py.
#include "attention/cuda/ptx.cuh"

namespace wrappers {

namespace ptx = guide::cuda::ptx;

struct Params {
  const std::uint16_t* a;  // [16][16], of which valid_rows are there
  const std::uint16_t* b;  // [16][16]
  const float* start;      // [16][16]
  std::uint32_t* product;  // [16][8] pairs of elements: a b + start
  float* powers;           // [16][16]: 2 to the sums
  float* row_max;          // [16]: of the sums
  std::int32_t valid_rows;
};

constexpr int kRowBytes = 32;
constexpr int kB = 16 * kRowBytes, kSums = 2 * kB, kMax = kSums + 16 * 16 * 4;

template <class Element>
__device__ void run(const Params& params) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const std::uint32_t shared = ptx::shared_memory();
  const int row = thread / 2 % 16, chunk = thread % 2;
  const bool is_a = warp == 0;
  const std::uint16_t* source = (is_a ? params.a : params.b) + row * 16 + chunk * 8;
  ptx::copy_async_chunk(
      shared + static_cast<std::uint32_t>((is_a ? 0 : kB) + row * kRowBytes + chunk * 16), source,
      !is_a || row < params.valid_rows ? 16 : 0);
  ptx::copy_async_commit();
  ptx::copy_async_wait<0>();
  __syncthreads();

  std::uint32_t a[4], b[4];
  const auto place = static_cast<std::uint32_t>(lane % 16 * kRowBytes + lane / 16 * 16);
  ptx::load_matrices(a, shared + place);
  ptx::load_matrices_transposed(b, shared + kB + place);
  float sums[4];
  const int g = lane / 4, column = warp * 8 + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sums[i] = ptx::load_global(params.start + (g + i / 2 * 8) * 16 + column + i % 2);
  }
  ptx::mma_m16n8k16<Element>(sums, a, warp == 0 ? b[0] : b[2], warp == 0 ? b[1] : b[3]);

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int out_row = g + half * 8;
    const float low = sums[2 * half], high = sums[2 * half + 1];
    ptx::store_global(params.product + out_row * 8 + column / 2, ptx::pack<Element>(low, high));
    const std::uint32_t at =
        shared + static_cast<std::uint32_t>(kSums + (out_row * 16 + column) * 4);
    ptx::store_shared(at, ptx::exp2(low));
    ptx::store_shared(at + 4, __float_as_uint(ptx::exp2(high)));
    float largest = ptx::max_or_nan(low, high);
    largest = ptx::max_or_nan(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = ptx::max_or_nan(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    if (lane % 4 == 0) {
      ptx::store_shared(shared + static_cast<std::uint32_t>(kMax + (warp * 16 + out_row) * 4),
                        largest);
    }
  }
  __syncthreads();

  // Each thread takes four powers on; one half of the block by chunks, back to where they were.
  const std::uint32_t at = shared + static_cast<std::uint32_t>(kSums + thread * 16);
  if (warp == 0) ptx::store_shared_chunk(at, ptx::load_shared_chunk(at));
  const float2 first = ptx::load_shared_pair(at), second = ptx::load_shared_pair(at + 8);
  ptx::store_global(reinterpret_cast<float4*>(params.powers) + thread,
                    make_float4(first.x, first.y, second.x, second.y));
  if (thread < 16) {
    const std::uint32_t max = shared + static_cast<std::uint32_t>(kMax + thread * 4);
    ptx::store_global(params.row_max + thread,
                      ptx::max_or_nan(ptx::load_shared(max), ptx::load_shared(max + 64)));
  }
}

extern "C" __global__ void wrappers_bfloat16(const __grid_constant__ Params params) {
  run<guide::cuda::BFloat16>(params);
}

extern "C" __global__ void wrappers_float16(const __grid_constant__ Params params) {
  run<guide::cuda::Float16>(params);
}

}  // namespace wrappers
