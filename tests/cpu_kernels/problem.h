// SPDX-License-Identifier: MIT
// A call of the kernels: its sizes and options, its inputs and what reached its results, drawn with
// a fixed seed.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "numbers.h"

enum class KeyBias { kNone, kShared, kPerHead };
enum class DenseBias { kNone, kFloat, kBool };

struct Problem {
  std::string name;
  std::int64_t batch = 1, num_heads = 2, num_kv_heads = 1;
  std::int64_t seqlen_q = 1, seqlen_k = 1, head_dim = 8, head_dim_v = 8;
  std::int64_t channels = 1;
  KeyBias key_bias = KeyBias::kShared;
  DenseBias dense_bias = DenseBias::kNone;
  bool has_sinks = false;
  bool is_causal = false;
  std::int64_t window_left = -1, window_right = -1;
  float softcap = 0;
  float scale = 0.25f;
  std::int32_t position_offset = 0;  // of the rows, from the bottom right
  double value_scale = 1;            // of value, to have small and large results
  // A NaN in the first row, one in a key that the bias hides, and an infinite number in a value;
  // gradients are not compared.
  bool has_nan = false;
  bool interleaved = false;  // [batch, rows, heads, elements], as models hold keys
  ElementType type = ElementType::kFloat32;

  std::int64_t rows() const { return batch * num_heads * seqlen_q; }
  std::int64_t keys() const { return batch * num_kv_heads * seqlen_k; }
  std::int64_t bias_heads() const { return key_bias == KeyBias::kPerHead ? num_heads : 1; }

  // Index of the first element of a row of query, key, value or out.
  guide::RowStrides strides(std::int64_t heads, std::int64_t length, std::int64_t dim) const {
    if (interleaved) return {heads * length * dim, dim, heads * dim};
    return {heads * length * dim, length * dim, dim};
  }

  // Whether the row `q` sees the key `k`, but for biases of -inf.
  bool sees(std::int64_t q, std::int64_t k) const {
    const std::int64_t position = seqlen_k - seqlen_q + position_offset + q;
    return !(is_causal && k > position) && !(window_left >= 0 && k < position - window_left) &&
           !(window_right >= 0 && k > position + window_right);
  }
};

// Arrays of a problem, as numbers: those that the element type has.
struct Inputs {
  std::vector<double> query, key, value;
  std::vector<double> key_bias;    // [bias_heads, seqlen_k]
  std::vector<double> influence;   // [batch, channels, seqlen_k]
  std::vector<double> dense_bias;  // [seqlen_q, seqlen_k], -inf hides
  std::vector<double> sinks;       // [num_heads]
  std::vector<double> grad_out, grad_influence_out, grad_lse;
};

inline Inputs draw(const Problem& problem) {
  std::mt19937 generator(20);
  std::normal_distribution<double> normal;
  const auto numbers = [&](std::int64_t count, ElementType type) {
    std::vector<double> result(static_cast<std::size_t>(count));
    for (double& number : result) number = rounded_to(type, normal(generator));
    return result;
  };
  constexpr ElementType kFloat32 = ElementType::kFloat32;
  constexpr std::size_t kHiddenKey = 5;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Inputs inputs;
  inputs.query = numbers(problem.rows() * problem.head_dim, problem.type);
  inputs.key = numbers(problem.keys() * problem.head_dim, problem.type);
  inputs.value = numbers(problem.keys() * problem.head_dim_v, problem.type);
  for (double& number : inputs.value) {
    number = rounded_to(problem.type, number * problem.value_scale);
  }
  if (problem.key_bias != KeyBias::kNone) {
    inputs.key_bias = numbers(problem.bias_heads() * problem.seqlen_k, kFloat32);
    // With a NaN one key alone, so that no other gives away that some are hidden.
    const std::size_t step = problem.has_nan ? inputs.key_bias.size() : 7;
    for (std::size_t i = kHiddenKey; i < inputs.key_bias.size(); i += step) {
      inputs.key_bias[i] = -kInfinity;
    }
  }
  if (problem.has_nan) {
    const std::int64_t row =
        problem.strides(problem.num_kv_heads, problem.seqlen_k, problem.head_dim).row;
    inputs.query[0] = inputs.key[kHiddenKey * static_cast<std::size_t>(row)] =
        std::numeric_limits<double>::quiet_NaN();
    inputs.value[0] = std::numeric_limits<double>::infinity();
  }
  inputs.influence = numbers(problem.batch * problem.channels * problem.seqlen_k, kFloat32);
  if (problem.dense_bias != DenseBias::kNone) {
    inputs.dense_bias = numbers(problem.seqlen_q * problem.seqlen_k, kFloat32);
    for (double& bias : inputs.dense_bias) {
      const double seen = problem.dense_bias == DenseBias::kBool ? 0 : bias;
      bias = bias < -1 ? -kInfinity : seen;
    }
  }
  if (problem.has_sinks) inputs.sinks = numbers(problem.num_heads, kFloat32);
  inputs.grad_out = numbers(problem.rows() * problem.head_dim_v, problem.type);
  inputs.grad_influence_out = numbers(problem.rows() * problem.channels, kFloat32);
  inputs.grad_lse = numbers(problem.rows(), kFloat32);
  return inputs;
}

// What a call gives; arrays are in the layout of the kernels.
struct Results {
  std::vector<double> out, influence_out, lse;
  std::vector<double> grad_query, grad_key, grad_value, grad_key_bias, grad_influence, grad_sinks;
};
