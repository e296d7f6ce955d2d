// SPDX-License-Identifier: MIT
// PTX ISA 9.0, "ldmatrix" and "mma.sync" (m16n8k16 with .bf16 or .f16 factors and .f32 sums). Both
// are undefined unless all 32 lanes execute them together, none having exited.
#include <cstring>

#include "block.h"
#include "number.h"
#include "report.h"
#include "warp.h"

namespace cuda_emulator {
namespace {

constexpr std::uint32_t kAllLanes = 0xffffffffu;

// ---- ldmatrix --------------------------------------------------------------------------------

constexpr int kRows = 8;        // of a matrix
constexpr int kRowBytes = 16;   // 8 elements of 2 bytes
constexpr int kBankGroups = 8;  // shared memory serves 8 rows at once, if none share a group

struct LoadArgument {
  std::uint32_t* registers;
  std::uint32_t address;
};

// Passes over shared memory beyond the first that the rows of one matrix need. Equal rows are read
// once.
std::uint64_t count_conflicts(const std::uint32_t* addresses) {
  std::uint64_t passes = 1;
  for (int row = 0; row < kRows; ++row) {
    std::uint64_t in_group = 1;
    for (int other = 0; other < row; ++other) {
      if (addresses[other] == addresses[row]) {
        in_group = 0;
        break;
      }
      in_group +=
          addresses[other] / kRowBytes % kBankGroups == addresses[row] / kRowBytes % kBankGroups;
    }
    passes = in_group > passes ? in_group : passes;
  }
  return passes - 1;
}

void finish_load_matrices(void* const* arguments, std::uint32_t, int variant) {
  const int count = variant / 2;
  const bool transposed = variant % 2 != 0;
  Block& block = running_block;
  const Thread* lanes = running_thread - running_thread->lane;
  ++statistics.load_matrices;
  for (int matrix = 0; matrix < count; ++matrix) {
    std::uint16_t elements[kRows][kRows];
    std::uint32_t addresses[kRows];
    for (int row = 0; row < kRows; ++row) {
      const int lane = matrix * kRows + row;
      addresses[row] = static_cast<const LoadArgument*>(arguments[lane])->address;
      std::uint32_t offset;
      if (block.shared_memory.find(lanes[lane], addresses[row], kRowBytes, "ldmatrix", &offset)) {
        block.race_checker.read(lanes[lane], offset, kRowBytes, "ldmatrix");
        std::memcpy(elements[row], block.shared_memory.at_offset(offset), kRowBytes);
      } else {
        std::memset(elements[row], kPoison, kRowBytes);
      }
    }
    statistics.bank_conflicts += count_conflicts(addresses);
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const int major = lane / 4, minor = lane % 4 * 2;
      const std::uint32_t low = transposed ? elements[minor][major] : elements[major][minor];
      const std::uint32_t high =
          transposed ? elements[minor + 1][major] : elements[major][minor + 1];
      static_cast<const LoadArgument*>(arguments[lane])->registers[matrix] = low | high << 16;
    }
  }
}

constexpr Collective kLoadMatrices = {"ldmatrix.sync", true, finish_load_matrices};

// ---- mma.sync --------------------------------------------------------------------------------

struct MmaArgument {
  float* sums;
  const std::uint32_t* a;
  const std::uint32_t* b;
};

// With g = lane / 4 and t = lane % 4, in pairs of neighbours along k:
//   a: [g][t], [g + 8][t], [g][t + 4], [g + 8][t + 4];  b: [t][g], [t + 4][g]
//   sums: [g][2t, 2t + 1], [g + 8][2t, 2t + 1]
// The sums are taken in fp32, in the order of k; hardware has another order, and rounds otherwise.
template <class Element>
void multiply(void* const* arguments) {
  constexpr int kM = 16, kN = 8, kPairs = 8;
  static_assert(kN == kVectorLanes && kPairs == kVectorLanes, "a row is a vector");
  VecU a_bits[kM], b_bits[kPairs];
  VecF sums[kM];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto& argument = *static_cast<const MmaArgument*>(arguments[lane]);
    const int g = lane / 4, t = lane % 4;
    a_bits[g][t] = argument.a[0];
    a_bits[g + 8][t] = argument.a[1];
    a_bits[g][t + 4] = argument.a[2];
    a_bits[g + 8][t + 4] = argument.a[3];
    b_bits[t][g] = argument.b[0];
    b_bits[t + 4][g] = argument.b[1];
    sums[g][2 * t] = argument.sums[0];
    sums[g][2 * t + 1] = argument.sums[1];
    sums[g + 8][2 * t] = argument.sums[2];
    sums[g + 8][2 * t + 1] = argument.sums[3];
  }
  VecF b_low[kPairs], b_high[kPairs];
  for (int pair = 0; pair < kPairs; ++pair) {
    Element::low_halves(b_bits[pair], &b_low[pair]);
    Element::high_halves(b_bits[pair], &b_high[pair]);
  }
  for (int row = 0; row < kM; ++row) {
    VecF a_low, a_high;
    Element::low_halves(a_bits[row], &a_low);
    Element::high_halves(a_bits[row], &a_high);
    VecF sum = sums[row];
    for (int pair = 0; pair < kPairs; ++pair) {
      sum += a_low[pair] * b_low[pair];
      sum += a_high[pair] * b_high[pair];
    }
    sums[row] = sum;
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    float* target = static_cast<const MmaArgument*>(arguments[lane])->sums;
    const int g = lane / 4, t = lane % 4;
    target[0] = sums[g][2 * t];
    target[1] = sums[g][2 * t + 1];
    target[2] = sums[g + 8][2 * t];
    target[3] = sums[g + 8][2 * t + 1];
  }
}

void finish_mma(void* const* arguments, std::uint32_t, int is_bfloat16) {
  ++statistics.mma;
  if (is_bfloat16 != 0) {
    multiply<BFloat16>(arguments);
  } else {
    multiply<Float16>(arguments);
  }
}

constexpr Collective kMma = {"mma.sync", true, finish_mma};

}  // namespace

void load_matrices(std::uint32_t* registers, int count, bool transposed, std::uint32_t address) {
  LoadArgument argument{registers, address};
  meet(kLoadMatrices, count * 2 + (transposed ? 1 : 0), kAllLanes, &argument);
}

void mma_m16n8k16(bool is_bfloat16, float* sums, const std::uint32_t* a, const std::uint32_t* b) {
  MmaArgument argument{sums, a, b};
  meet(kMma, is_bfloat16 ? 1 : 0, kAllLanes, &argument);
}

}  // namespace cuda_emulator
