// SPDX-License-Identifier: MIT
#include "self_check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "forward.h"

namespace guide::cpu {

namespace {

struct Sizes {
  std::int64_t num_heads, num_kv_heads, seqlen_q, seqlen_k, head_dim, head_dim_v;
  bool is_causal;
};

// Whole tiles of dimensions and K in place; then dimensions, keys and rows that fill no tile.
constexpr Sizes kProblems[] = {{2, 1, 64, 256, 64, 64, false}, {4, 2, 37, 219, 72, 41, true}};

std::uint16_t bfloat16_of(float value) {  // no NaN
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float float_of(std::uint16_t value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

// The same numbers in [-1, 1) everywhere.
class Draw {
 public:
  float operator()() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(state_ >> 40) * 0x1p-23f - 1.f;
  }

 private:
  std::uint64_t state_ = 1;
};

// One problem with its inputs, contiguous [heads, rows, elements].
class Problem {
 public:
  explicit Problem(const Sizes& sizes) : sizes_(sizes) {
    Draw draw;
    const auto fill = [&](std::vector<std::uint16_t>& numbers, std::int64_t count, float scale) {
      numbers.resize(static_cast<std::size_t>(count));
      for (std::uint16_t& number : numbers) number = bfloat16_of(scale * draw());
    };
    fill(query_, sizes.num_heads * sizes.seqlen_q * sizes.head_dim, 2.f);
    fill(key_, sizes.num_kv_heads * sizes.seqlen_k * sizes.head_dim, 2.f);
    fill(value_, sizes.num_kv_heads * sizes.seqlen_k * sizes.head_dim_v, 1.f);
    for (std::int64_t k = 0; k < sizes.seqlen_k; ++k) {
      key_bias_.push_back(draw());
      influence_.push_back(draw());
    }
  }

  struct Results {
    std::vector<float> out, influence_out, lse;
  };

  Results run(const Kernel& kernel) const {
    const std::int64_t rows = sizes_.num_heads * sizes_.seqlen_q;
    std::vector<std::uint16_t> out(static_cast<std::size_t>(rows * sizes_.head_dim_v));
    Results results;
    results.influence_out.resize(static_cast<std::size_t>(rows));
    results.lse.resize(static_cast<std::size_t>(rows));
    AttentionParams params{};
    params.batch = 1;
    params.num_heads = sizes_.num_heads;
    params.num_kv_heads = sizes_.num_kv_heads;
    params.group_size = sizes_.num_heads / sizes_.num_kv_heads;
    params.seqlen_q = sizes_.seqlen_q;
    params.seqlen_k = sizes_.seqlen_k;
    params.head_dim = sizes_.head_dim;
    params.head_dim_v = sizes_.head_dim_v;
    params.element_type = ElementType::kBFloat16;
    params.query = query_.data();
    params.key = key_.data();
    params.value = value_.data();
    params.query_strides = strides(sizes_.seqlen_q, sizes_.head_dim);
    params.key_strides = strides(sizes_.seqlen_k, sizes_.head_dim);
    params.value_strides = strides(sizes_.seqlen_k, sizes_.head_dim_v);
    params.key_bias = key_bias_.data();
    params.key_bias_key_stride = 1;
    params.influence = influence_.data();
    params.channels = 1;
    params.influence_key_stride = 1;
    params.out = out.data();
    params.out_strides = strides(sizes_.seqlen_q, sizes_.head_dim_v);
    params.influence_out = results.influence_out.data();
    params.lse = results.lse.data();
    params.scale = 1.f / std::sqrt(static_cast<float>(sizes_.head_dim));
    params.is_causal = sizes_.is_causal;
    params.window_left = params.window_right = -1;
    forward(params, {&kernel, &kernel.prefill}, {1, nullptr});
    for (const std::uint16_t number : out) results.out.push_back(float_of(number));
    return results;
  }

 private:
  RowStrides strides(std::int64_t rows, std::int64_t elements) const {
    return {0, rows * elements, elements};
  }

  Sizes sizes_;
  std::vector<std::uint16_t> query_, key_, value_;
  std::vector<float> key_bias_, influence_;
};

// The first number that differs by more than `tolerance` of the largest one.
std::string difference(const char* name, const std::vector<float>& found,
                       const std::vector<float>& expected, float tolerance) {
  float largest = 0.f;
  for (const float number : expected) largest = std::max(largest, std::fabs(number));
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (std::fabs(found[i] - expected[i]) <= tolerance * largest) continue;  // false for NaN
    return std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(found[i]) +
           " and should be " + std::to_string(expected[i]);
  }
  return "";
}

}  // namespace

std::string find_difference(const Kernel& kernel, const Kernel& trusted) {
  // Weights are rounded to bfloat16 in one kernel and perhaps not in the other; all sums that go
  // into lse and influence are of float32.
  constexpr float kOfBFloat16 = 0x1p-7f, kOfFloat32 = 1e-5f;
  for (const Sizes& sizes : kProblems) {
    const Problem problem(sizes);
    const Problem::Results found = problem.run(kernel), expected = problem.run(trusted);
    for (const std::string& words :
         {difference("lse", found.lse, expected.lse, kOfFloat32),
          difference("influence_out", found.influence_out, expected.influence_out, kOfFloat32),
          difference("out", found.out, expected.out, kOfBFloat16)}) {
      if (!words.empty()) {
        return words + " for " + std::to_string(sizes.seqlen_q) + " queries and " +
               std::to_string(sizes.seqlen_k) + " keys of " + std::to_string(sizes.head_dim) +
               " and " + std::to_string(sizes.head_dim_v) + " dimensions";
      }
    }
  }
  return "";
}

}  // namespace guide::cpu
