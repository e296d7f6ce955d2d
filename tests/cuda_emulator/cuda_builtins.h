// SPDX-License-Identifier: MIT
// CUDA's built-in variables and functions in terms of the emulator. Included by cuda_emulator.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define threadIdx (cuda_emulator::thread_index())
#define blockIdx (cuda_emulator::block_index())
#define blockDim (cuda_emulator::block_dim())
#define gridDim (cuda_emulator::grid_dim())

inline void __syncthreads() { cuda_emulator::bar_sync(0, -1); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { cuda_emulator::sync_warp(mask); }

// ---- Shuffles and votes: CUDA programming guide, "Warp Shuffle" and "Warp Vote Functions" -------

template <class Value>
inline Value __shfl_sync(unsigned mask, Value value, int source, int width = 32) {
  const int lane = cuda_emulator::lane_index();
  Value result;
  cuda_emulator::shuffle(mask, &value, &result, sizeof(Value),
                         (lane & ~(width - 1)) | (source & (width - 1)));
  return result;
}

// A source beyond the lane's own segment of `width` lanes means the lane itself.
template <class Value>
inline Value __shfl_xor_sync(unsigned mask, Value value, int lane_mask, int width = 32) {
  const int lane = cuda_emulator::lane_index();
  const int source = lane ^ lane_mask;
  Value result;
  cuda_emulator::shuffle(mask, &value, &result, sizeof(Value),
                         source > (lane | (width - 1)) ? lane : source);
  return result;
}

template <class Value>
inline Value __shfl_down_sync(unsigned mask, Value value, unsigned delta, int width = 32) {
  const int lane = cuda_emulator::lane_index();
  const int source = lane + static_cast<int>(delta);
  Value result;
  cuda_emulator::shuffle(mask, &value, &result, sizeof(Value),
                         source > (lane | (width - 1)) ? lane : source);
  return result;
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return cuda_emulator::ballot(mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) {
  return cuda_emulator::ballot(mask, predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return cuda_emulator::ballot(mask, predicate == 0) == 0;
}

// ---- Bits ------------------------------------------------------------------------------------

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }
inline int __float_as_int(float value) { return static_cast<int>(__float_as_uint(value)); }

// ---- Numbers; <cmath> has put fmaf, log2f, tanhf and their like into the global namespace
// --------

inline float rsqrtf(float value) { return 1.0f / sqrtf(value); }

// Unlike std::min and std::max these take two different types, and of a number and a NaN the
// number.
template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using Common = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<Common>) {
    return std::fmin(static_cast<Common>(a), static_cast<Common>(b));
  } else {
    return static_cast<Common>(b) < static_cast<Common>(a) ? static_cast<Common>(b)
                                                           : static_cast<Common>(a);
  }
}

template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using Common = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<Common>) {
    return std::fmax(static_cast<Common>(a), static_cast<Common>(b));
  } else {
    return static_cast<Common>(a) < static_cast<Common>(b) ? static_cast<Common>(b)
                                                           : static_cast<Common>(a);
  }
}
