// SPDX-License-Identifier: MIT
// A loop like that of the forward kernel in miniature, with an error chosen by PLANTED. What the
// gates must report of it is in tests/cuda/test_gates.py. It is compiled and never run.
#include <cstdint>

#define NONE 0
#define MISSING_PRODUCT 1
#define PRODUCT_SKIPPED_AT_RUN_TIME 2
#define NARROW_COPY 3
#define NO_BARRIER 4
#define SPILL 5
#define EXACT_EXPONENTIAL 6

#if PLANTED == SPILL
#define MIN_BLOCKS 8
#else
#define MIN_BLOCKS 1
#endif

constexpr int kHeadDim = 128;  // 16 keys a block

__device__ __forceinline__ void multiply(float (&sums)[4], const std::uint32_t (&a)[4],
                                         std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void load(std::uint32_t (&registers)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(address)
               : "memory");
}

template <int kBytes>
__device__ __forceinline__ void copy(std::uint32_t target, const void* source) {
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target), "l"(source) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(target), "l"(source) : "memory");
  }
}

__global__ void __launch_bounds__(256, MIN_BLOCKS)
    planted(const std::uint32_t* query, const char* key, float* out, int blocks, int skip) {
  extern __shared__ __align__(128) unsigned char memory[];
  const std::uint32_t shared = static_cast<std::uint32_t>(__cvta_generic_to_shared(memory));
  const std::uint32_t lane_row = shared + threadIdx.x % 32 * 16;
  std::uint32_t pieces[kHeadDim / 16][4];
  float sums[kHeadDim / 8][4] = {};
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) pieces[step][i] = query[(step * 4 + i) * 256 + threadIdx.x];
  }
#pragma unroll 1
  for (int block = 0; block < blocks; ++block) {
    asm volatile("cp.async.wait_all;" ::: "memory");
#if PLANTED != NO_BARRIER
    __syncthreads();
#endif
    copy<16>(shared + threadIdx.x * 16, key + block * 8192);
    copy<PLANTED == NARROW_COPY ? 4 : 16>(shared + 4096 + threadIdx.x * 16, key + block * 8192);
    float scores[2][4] = {};
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
      std::uint32_t right[4];
      load(right, lane_row + step * 512);
      multiply(scores[0], pieces[step], right[0], right[1]);
#if PLANTED == MISSING_PRODUCT
      if (step == 3) continue;
#elif PLANTED == PRODUCT_SKIPPED_AT_RUN_TIME
      if (step == 3 && block == skip) continue;
#endif
      multiply(scores[1], pieces[step], right[2], right[3]);
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
#if PLANTED == EXACT_EXPONENTIAL
        scores[j][e] = exp2f(scores[j][e]);
#else
        asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(scores[j][e]));
#endif
      }
    }
    std::uint32_t left[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;"
          : "=r"(left[i])
          : "f"(scores[i / 2][i % 2 * 2]), "f"(scores[i / 2][i % 2 * 2 + 1]));
    }
#pragma unroll
    for (int i = 0; i < kHeadDim / 8; i += 2) {
      std::uint32_t right[4];
      load(right, lane_row + 4096 + i * 256);
      multiply(sums[i], left, right[0], right[1]);
      multiply(sums[i + 1], left, right[2], right[3]);
    }
  }
#pragma unroll
  for (int i = 0; i < kHeadDim / 8; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) out[(i * 4 + e) * 256 + threadIdx.x] = sums[i][e];
  }
}
