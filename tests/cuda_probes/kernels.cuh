// SPDX-License-Identifier: MIT
// One tiny kernel per instruction wrapper of ptx.cuh: bytes in, bytes out.
//
// A probe works on items, one item per thread block of one warp. The kernels address their input
// and output by elements of a type, counted from the start of the item.
#pragma once

#include "attention/cuda/ptx.cuh"

namespace guide::cuda::probes {

constexpr unsigned kLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

struct Buffers {
  const std::uint8_t* in;
  std::uint8_t* out;
  unsigned in_bytes;   // of one item
  unsigned out_bytes;  // of one item
};

// ---- Kernels: the bodies may come from the PTX that nvcc made of them, see runtime.h -----------

template <bool kTransposed>
__global__ void load_matrices(const __grid_constant__ Buffers buffers);
template <class Element>
__global__ void mma(const __grid_constant__ Buffers buffers);
__global__ void copy_async(const __grid_constant__ Buffers buffers);
__global__ void copy_async_groups(const __grid_constant__ Buffers buffers);
__global__ void shared_words(const __grid_constant__ Buffers buffers);
__global__ void shared_chunks(const __grid_constant__ Buffers buffers);
__global__ void shuffles(const __grid_constant__ Buffers buffers);
__global__ void votes(const __grid_constant__ Buffers buffers);
template <class Element>
__global__ void pack(const __grid_constant__ Buffers buffers);
__global__ void from_float16(const __grid_constant__ Buffers buffers);
__global__ void from_bfloat16(const __grid_constant__ Buffers buffers);
__global__ void exp2(const __grid_constant__ Buffers buffers);
__global__ void max_or_nan(const __grid_constant__ Buffers buffers);

#if GUIDE_KERNEL_BODIES

template <class Value>
GUIDE_DEVICE const Value* in_pointer(const Buffers& buffers, unsigned index) {
  return reinterpret_cast<const Value*>(buffers.in + std::size_t{blockIdx.x} * buffers.in_bytes) +
         index;
}

template <class Value>
GUIDE_DEVICE Value in(const Buffers& buffers, unsigned index) {
  return ptx::load_global(in_pointer<Value>(buffers, index));
}

template <class Value>
GUIDE_DEVICE void out(const Buffers& buffers, unsigned index, Value value) {
  std::uint8_t* item = buffers.out + std::size_t{blockIdx.x} * buffers.out_bytes;
  ptx::store_global(reinterpret_cast<Value*>(item) + index, value);
}

// ---- Matrices --------------------------------------------------------------------------------

// In: 64 rows of 16 bytes; per lane the row whose address it gives. Out: four registers per lane.
template <bool kTransposed>
__global__ void load_matrices(const __grid_constant__ Buffers buffers) {
  constexpr unsigned kRows = 64;
  const unsigned lane = threadIdx.x;
  const std::uint32_t shared = ptx::shared_memory();
  for (unsigned row = lane; row < kRows; row += kLanes) {
    ptx::store_shared_chunk(shared + 16 * row, in<uint4>(buffers, row));
  }
  __syncthreads();
  const std::uint32_t address = shared + 16 * in<std::uint32_t>(buffers, 4 * kRows + lane);
  std::uint32_t registers[4];
  if constexpr (kTransposed) {
    ptx::load_matrices_transposed(registers, address);
  } else {
    ptx::load_matrices(registers, address);
  }
  out(buffers, lane, uint4{registers[0], registers[1], registers[2], registers[3]});
}

// In: a [16][16] and b [16][8] of 16-bit elements, sums [16][8] of floats. Out: the new sums.
// The fragments are gathered element by element, as the comment of mma_m16n8k16 states them.
template <class Element>
__global__ void mma(const __grid_constant__ Buffers buffers) {
  constexpr unsigned kB = 16 * 16, kSums = (kB + 16 * 8) / 2;  // in elements, in floats
  const unsigned group = threadIdx.x / 4, pair = 2 * (threadIdx.x % 4);
  const auto element = [&](unsigned index) {
    return std::uint32_t{in<std::uint16_t>(buffers, index)};
  };
  const auto a_pair = [&](unsigned row, unsigned column) {
    return element(16 * row + column) | element(16 * row + column + 1) << 16;
  };
  const auto b_pair = [&](unsigned row) {
    return element(kB + 8 * row + group) | element(kB + 8 * (row + 1) + group) << 16;
  };
  const std::uint32_t a[4] = {a_pair(group, pair), a_pair(group + 8, pair), a_pair(group, pair + 8),
                              a_pair(group + 8, pair + 8)};
  float sums[4];
  for (unsigned i = 0; i < 4; ++i) {
    sums[i] = in<float>(buffers, kSums + 8 * (group + 8 * (i / 2)) + pair + i % 2);
  }
  ptx::mma_m16n8k16<Element>(sums, a, b_pair(pair), b_pair(pair + 8));
  for (unsigned i = 0; i < 4; ++i) {
    out(buffers, 8 * (group + 8 * (i / 2)) + pair + i % 2, sums[i]);
  }
}

// ---- Asynchronous copies ---------------------------------------------------------------------

// In: 16 bytes per lane; per lane the number of source bytes. Out: the 16 bytes that the opposite
// lane finds, over a background of 0xa5.
__global__ void copy_async(const __grid_constant__ Buffers buffers) {
  const unsigned lane = threadIdx.x;
  const std::uint32_t shared = ptx::shared_memory();
  constexpr std::uint32_t kBackground = 0xa5a5a5a5u;
  ptx::store_shared_chunk(shared + 16 * lane,
                          uint4{kBackground, kBackground, kBackground, kBackground});
  __syncthreads();
  ptx::copy_async_chunk(shared + 16 * lane, in_pointer<uint4>(buffers, lane),
                        static_cast<int>(in<std::uint32_t>(buffers, 4 * kLanes + lane)));
  ptx::copy_async_commit();
  ptx::copy_async_wait<0>();
  __syncthreads();
  out(buffers, lane, ptx::load_shared_chunk(shared + 16 * (kLanes - 1 - lane)));
}

// In: three chunks per lane, one group of copies each. Out: the chunks, each read when the groups
// up to its own have arrived, from the neighbouring lane.
__global__ void copy_async_groups(const __grid_constant__ Buffers buffers) {
  const unsigned lane = threadIdx.x, neighbour = lane ^ 1;
  const std::uint32_t shared = ptx::shared_memory();
  const auto address = [&](unsigned group, unsigned of_lane) {
    return shared + 16 * (kLanes * group + of_lane);
  };
  const auto report = [&](unsigned group) {
    __syncthreads();
    out(buffers, kLanes * group + lane, ptx::load_shared_chunk(address(group, neighbour)));
  };
  for (unsigned group = 0; group < 3; ++group) {
    ptx::copy_async_chunk(address(group, lane), in_pointer<uint4>(buffers, kLanes * group + lane),
                          16);
    ptx::copy_async_commit();
  }
  ptx::copy_async_wait<2>();
  report(0);
  ptx::copy_async_wait<1>();
  report(1);
  ptx::copy_async_wait<0>();
  report(2);
}

// ---- Shared memory ---------------------------------------------------------------------------

// In: per lane a word; per lane the slot it is stored to, by even lanes as a float. Out: per lane
// the word at that slot; then, for the lanes below 16, the pair of words at slots 2 lane and
// 2 lane + 1; then, for the lanes below 8, the four words from slot 4 lane on.
__global__ void shared_words(const __grid_constant__ Buffers buffers) {
  const unsigned lane = threadIdx.x;
  const std::uint32_t shared = ptx::shared_memory();
  const std::uint32_t word = in<std::uint32_t>(buffers, lane);
  const std::uint32_t slot = shared + 4 * in<std::uint32_t>(buffers, kLanes + lane);
  if (lane % 2 == 0) {
    ptx::store_shared(slot, __uint_as_float(word));
  } else {
    ptx::store_shared(slot, word);
  }
  __syncthreads();
  out(buffers, lane, ptx::load_shared(slot));
  if (lane < 16) out(buffers, 16 + lane, ptx::load_shared_pair(shared + 8 * lane));
  if (lane < 8) out(buffers, 16 + lane, ptx::load_shared_chunk(shared + 16 * lane));
}

// In: per lane a chunk; per lane the slot it is stored to. Out: the chunks in the order of slots.
__global__ void shared_chunks(const __grid_constant__ Buffers buffers) {
  const unsigned lane = threadIdx.x;
  const std::uint32_t shared = ptx::shared_memory();
  const std::uint32_t slot = in<std::uint32_t>(buffers, 4 * kLanes + lane);
  ptx::store_shared_chunk(shared + 16 * slot, in<uint4>(buffers, lane));
  __syncthreads();
  out(buffers, lane, ptx::load_shared_chunk(shared + 16 * lane));
}

// ---- Warps -----------------------------------------------------------------------------------

// In: per lane a float; per lane a lane. Out, one row of lanes each: the float of the lane across
// 1, 2, 4, 8 and 16; the float of the named lane.
__global__ void shuffles(const __grid_constant__ Buffers buffers) {
  const unsigned lane = threadIdx.x;
  const float value = in<float>(buffers, lane);
  const int source = static_cast<int>(in<std::uint32_t>(buffers, kLanes + lane));
  for (unsigned step = 0; step < 5; ++step) {
    out(buffers, kLanes * step + lane, __shfl_xor_sync(kAllLanes, value, 1 << step));
  }
  out(buffers, kLanes * 5 + lane, __shfl_sync(kAllLanes, value, source));
}

// In: per lane a word, a vote of yes unless 0. Out, one row of lanes each: any, all, the ballot.
__global__ void votes(const __grid_constant__ Buffers buffers) {
  const unsigned lane = threadIdx.x;
  const bool vote = in<std::uint32_t>(buffers, lane) != 0;
  out(buffers, lane, static_cast<std::uint32_t>(__any_sync(kAllLanes, vote) != 0));
  out(buffers, kLanes + lane, static_cast<std::uint32_t>(__all_sync(kAllLanes, vote) != 0));
  out(buffers, 2 * kLanes + lane, static_cast<std::uint32_t>(__ballot_sync(kAllLanes, vote)));
}

// ---- Numbers: one element per lane -----------------------------------------------------------

template <class Element>
__global__ void pack(const __grid_constant__ Buffers buffers) {
  const float2 pair = in<float2>(buffers, threadIdx.x);
  out(buffers, threadIdx.x, ptx::pack<Element>(pair.x, pair.y));
}

__global__ void from_float16(const __grid_constant__ Buffers buffers) {
  out(buffers, threadIdx.x, ptx::from_float16(in<std::uint16_t>(buffers, threadIdx.x)));
}

__global__ void from_bfloat16(const __grid_constant__ Buffers buffers) {
  out(buffers, threadIdx.x, ptx::from_bfloat16(in<std::uint16_t>(buffers, threadIdx.x)));
}

__global__ void exp2(const __grid_constant__ Buffers buffers) {
  out(buffers, threadIdx.x, ptx::exp2(in<float>(buffers, threadIdx.x)));
}

__global__ void max_or_nan(const __grid_constant__ Buffers buffers) {
  const float2 pair = in<float2>(buffers, threadIdx.x);
  out(buffers, threadIdx.x, ptx::max_or_nan(pair.x, pair.y));
}

#endif  // GUIDE_KERNEL_BODIES

}  // namespace guide::cuda::probes
