// SPDX-License-Identifier: MIT
// PTX ISA 9.0, "cvt", "ex2", "max".
#include "number.h"

#include <cfloat>
#include <cmath>
#include <cstring>

#include "../cuda_emulator.h"

namespace cuda_emulator {
namespace {

constexpr std::uint32_t kInfinity = 0x7f800000u;
constexpr std::uint32_t kCanonicalNan16 = 0x7fffu;  // of both types
constexpr std::uint32_t kCanonicalNan32 = 0x7fffffffu;

std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

float from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Drops the lowest `count` bits, to nearest with ties to even. A carry into the exponent is right:
// the next number up is the next power of two, or infinity.
std::uint32_t round_off(std::uint32_t bits, int count) {
  const std::uint32_t half = 1u << (count - 1);
  const std::uint32_t is_odd = bits >> count & 1;
  return (bits + half - 1 + is_odd) >> count;
}

// cvt.rn.bf16.f32
std::uint32_t to_bfloat16(float value) {
  const std::uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > kInfinity) return kCanonicalNan16;
  return round_off(bits, 16);
}

// cvt.rn.f16.f32
std::uint32_t to_float16(float value) {
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > kInfinity) return kCanonicalNan16;
  if (magnitude >= bits_of(65520.0f)) return sign | 0x7c00u;  // rounds to 65536 or beyond
  if (magnitude < bits_of(0x1p-14f)) {
    // A multiple of 2^-24. Adding 0.5, whose last bit is 2^-24, rounds it to one.
    return sign | (bits_of(from_bits(magnitude) + 0.5f) - bits_of(0.5f));
  }
  constexpr std::uint32_t kBiasChange = (127u - 15u) << 23;
  return sign | round_off(magnitude - kBiasChange, 13);
}

}  // namespace

std::uint32_t pack(bool is_bfloat16, float low, float high) {
  return is_bfloat16 ? to_bfloat16(low) | to_bfloat16(high) << 16
                     : to_float16(low) | to_float16(high) << 16;
}

float from_float16(std::uint16_t bits) {
  VecF numbers;
  Float16::low_halves(VecU{bits}, &numbers);
  return numbers[0];
}

// ex2.approx.ftz.f32: denormal arguments and results are zero.
float exp2(float x) {
  const float power = std::exp2(x);
  return power < FLT_MIN ? 0.0f : power;
}

// max.NaN.f32; +0 is larger than -0.
float max_or_nan(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return from_bits(kCanonicalNan32);
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}

}  // namespace cuda_emulator
