// SPDX-License-Identifier: MIT
// The two 16-bit types, eight numbers at a time.
#pragma once

#include <cstdint>

namespace cuda_emulator {

// Vectors of the compiler; it splits what the machine's own cannot hold. Passed by reference only:
// by value they have no calling convention that every instruction set shares.
constexpr int kVectorLanes = 8;
using VecF = float __attribute__((vector_size(kVectorLanes * sizeof(float))));
using VecU = std::uint32_t __attribute__((vector_size(kVectorLanes * sizeof(std::uint32_t))));

// The numbers in the low, or high, 16 bits of each element.
struct BFloat16 {
  static void low_halves(const VecU& bits, VecF* numbers) { *numbers = (VecF)(bits << 16); }
  static void high_halves(const VecU& bits, VecF* numbers) {
    *numbers = (VecF)(bits & 0xffff0000u);
  }
};

struct Float16 {
  // The exponent moves from bias 15 to bias 127 by an exact multiplication, which makes denormals
  // normal; infinities and NaNs then get the largest exponent.
  static void low_halves(const VecU& bits, VecF* numbers) {
    const VecU magnitude = (bits & 0x7fffu) << 13;
    const VecU is_special = (VecU)(magnitude >= 0x0f800000u);
    const VecU rebiased = (VecU)((VecF)magnitude * 0x1p112f);
    *numbers = (VecF)(rebiased | (is_special & 0x7f800000u) | (bits & 0x8000u) << 16);
  }
  static void high_halves(const VecU& bits, VecF* numbers) { low_halves(bits >> 16, numbers); }
};

}  // namespace cuda_emulator
