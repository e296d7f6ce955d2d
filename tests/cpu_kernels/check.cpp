// SPDX-License-Identifier: MIT
// The CPU kernels of one instruction set without torch, so that they run wherever a C++ compiler
// and, for another processor, an emulator are: both ways of the forward pass and the gradients,
// over sizes at the edges of tiles and blocks, against the formulas in double.
//
// GUIDE_EXT_CPU_ISA chooses the instruction set. Prints its name and what was compared; returns 1
// if a result is wrong, or differs between one thread and three.
#include <cstdio>
#include <map>

#include "call.h"
#include "reference.h"

// Scratch memory, but of small calls, which have it on the stack: NaN until it is written, no byte
// to spare.
namespace {
std::map<void*, GuardedBytes>& scratch_memory() {
  static std::map<void*, GuardedBytes> memory;
  return memory;
}
}  // namespace

void* operator new(std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  const auto unit = static_cast<std::size_t>(alignment);
  GuardedBytes bytes((size + unit - 1) / unit * unit);
  void* data = bytes.data();
  scratch_memory().emplace(data, std::move(bytes));
  return data;
}

void operator delete(void* data, std::align_val_t) noexcept { scratch_memory().erase(data); }

namespace {

// How far a result may be from the truth, as in tests/helpers/tolerance.py: `factor` times the
// error of a plain implementation, and `ulps` units in the last place of the largest number of
// `type`.
struct Tolerance {
  double factor;
  double ulps;
  ElementType type;
  double at_least = 0;  // magnitude to which the units refer when the numbers are smaller
};

// Sizes at the edges of micro-tiles, tiles and blocks of every instruction set, and options.
std::vector<Problem> shapes() {
  std::vector<Problem> problems;
  const auto add = [&](Problem problem, std::string name) {
    problem.name = std::move(name);
    problems.push_back(std::move(problem));
  };
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 24, 25, 32, 33, 64, 65}) {
    Problem problem;
    problem.num_heads = 1;
    problem.seqlen_q = rows;
    problem.seqlen_k = 21;
    add(problem, std::to_string(rows) + " rows");
  }
  for (const std::int64_t keys : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 127, 128, 129, 256, 257}) {
    Problem problem;
    problem.seqlen_q = 5;
    problem.seqlen_k = keys;
    problem.head_dim = 16;
    problem.channels = 2;
    add(problem, std::to_string(keys) + " keys");
  }
  const std::int64_t dims[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 33, 40, 64, 72, 128};
  for (std::size_t i = 0; i < std::size(dims); ++i) {
    Problem problem;
    problem.seqlen_q = 9;
    problem.seqlen_k = 35;
    problem.head_dim = dims[i];
    problem.head_dim_v = dims[(i + 5) % std::size(dims)];
    problem.channels = static_cast<std::int64_t>(i % 4);
    add(problem, "head_dim " + std::to_string(problem.head_dim) + " and " +
                     std::to_string(problem.head_dim_v));
  }

  Problem ordinary;
  ordinary.num_heads = 4;
  ordinary.num_kv_heads = 2;
  ordinary.seqlen_q = 19;
  ordinary.seqlen_k = 133;
  ordinary.head_dim = 24;
  ordinary.head_dim_v = 20;
  const auto with = [&](const char* name, auto&& change) {
    Problem problem = ordinary;
    change(problem);
    add(problem, name);
  };
  with("no bias", [](Problem& p) { p.key_bias = KeyBias::kNone; });
  with("bias per head", [](Problem& p) { p.key_bias = KeyBias::kPerHead; });
  with("two batches, models' layout", [](Problem& p) { p.batch = 2, p.interleaved = true; });
  with("one row for each head", [](Problem& p) { p.seqlen_q = 1, p.is_causal = true; });
  with("causal", [](Problem& p) { p.seqlen_q = 133, p.is_causal = true; });
  with("empty rows",
       [](Problem& p) { p.seqlen_q = 40, p.seqlen_k = 30, p.is_causal = p.has_sinks = true; });
  with("window", [](Problem& p) { p.seqlen_q = 70, p.window_left = 20, p.window_right = 3; });
  with("window beyond the keys",
       [](Problem& p) { p.is_causal = true, p.window_left = 5, p.position_offset = 120; });
  with("soft-cap", [](Problem& p) { p.softcap = 1.5f, p.has_sinks = true; });
  with("soft-cap, bias per head",
       [](Problem& p) { p.softcap = 3, p.key_bias = KeyBias::kPerHead, p.channels = 0; });
  with("dense bias", [](Problem& p) { p.dense_bias = DenseBias::kFloat, p.channels = 3; });
  with("dense bias, bias per head", [](Problem& p) {
    p.seqlen_q = 2, p.dense_bias = DenseBias::kFloat, p.key_bias = KeyBias::kPerHead;
  });
  with("dense mask", [](Problem& p) { p.dense_bias = DenseBias::kBool, p.is_causal = true; });
  with("large scores", [](Problem& p) { p.scale = 4; });
  with("small values", [](Problem& p) { p.value_scale = 1e-6; });  // denormal in fp16
  with("large values", [](Problem& p) { p.value_scale = 8e3; });
  with("NaN", [](Problem& p) { p.has_nan = true; });
  with("NaN, one row for each head", [](Problem& p) { p.has_nan = true, p.seqlen_q = 1; });
  with("three rows to a group", [](Problem& p) {
    p.num_heads = 6, p.seqlen_q = 1, p.head_dim = p.head_dim_v = 64, p.seqlen_k = 300;
  });
  with("split keys, few rows", [](Problem& p) {
    p.seqlen_q = 2, p.seqlen_k = 1500, p.has_sinks = p.is_causal = true, p.channels = 2;
  });
  with("split keys, many rows", [](Problem& p) {
    p.num_heads = p.num_kv_heads = 1, p.seqlen_q = 40, p.seqlen_k = 1300, p.head_dim = 64;
  });
  with("several blocks for several threads", [](Problem& p) {
    p.seqlen_q = 150, p.seqlen_k = 260, p.is_causal = true, p.head_dim = p.head_dim_v = 32;
  });
  return problems;
}

constexpr ElementType kFloat32 = ElementType::kFloat32;

struct Tally {
  std::int64_t numbers = 0;
  std::int64_t wrong = 0;
};

// Compares a result with the truth; `plain` is what a plain implementation gets.
void judge(const std::string& name, const Array& actual, const std::vector<double>& truth,
           const std::vector<double>& plain, const Tolerance& tolerance, Tally& tally) {
  double plain_error = 0, magnitude = tolerance.at_least;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    if (!std::isfinite(truth[i])) continue;
    plain_error = std::max(plain_error, std::fabs(rounded_to(actual.type(), plain[i]) - truth[i]));
    magnitude = std::max(magnitude, std::fabs(truth[i]));
  }
  const double allowed =
      tolerance.factor * plain_error + tolerance.ulps * epsilon_of(tolerance.type) * magnitude;
  tally.numbers += static_cast<std::int64_t>(truth.size());
  for (std::size_t i = 0; i < truth.size(); ++i) {
    const double number = actual[i];
    const bool is_right = std::isfinite(truth[i]) ? std::fabs(number - truth[i]) <= allowed
                          : std::isnan(truth[i])  ? std::isnan(number)
                                                  : number == truth[i];
    if (is_right) continue;
    std::printf("%s: %.9g at %zu where the truth is %.9g; allowed is an error of %.3g\n",
                name.c_str(), number, i, truth[i], allowed);
    ++tally.wrong;
    return;
  }
}

void expect_same(const std::string& name, const Array& one, const Array& three, Tally& tally) {
  if (one.has_bits_of(three)) return;
  std::printf("%s: other bits with three threads than with one\n", name.c_str());
  ++tally.wrong;
}

void check(const Problem& problem, Tally& tally) {
  const Inputs inputs = draw(problem);
  const Results truth = Reference<double>(problem, inputs, ElementType::kFloat64).run();
  const Results plain = Reference<float>(problem, inputs, ElementType::kFloat64).run();
  // lse and influence are fp32 whatever the elements are.
  const Results elements =
      problem.type == kFloat32 ? plain : Reference<float>(problem, inputs, problem.type).run();
  const Call call(problem, inputs);
  const std::string name = problem.name + ", " + guide::name_of(problem.type);

  const auto check_forward = [&](const char* way, const guide::cpu::Routine& routine) {
    const std::string prefix = name + ", " + way + ": ";
    const ForwardResults one = call.run(routine, 1), three = call.run(routine, 3);
    judge(prefix + "out", one.out, truth.out, elements.out, {2, 4, problem.type}, tally);
    judge(prefix + "influence_out", one.influence_out, truth.influence_out, plain.influence_out,
          {2, 4, kFloat32}, tally);
    judge(prefix + "lse", one.lse, truth.lse, plain.lse, {2, 4, kFloat32, 1}, tally);
    expect_same(prefix + "out", one.out, three.out, tally);
    expect_same(prefix + "influence_out", one.influence_out, three.influence_out, tally);
    expect_same(prefix + "lse", one.lse, three.lse, tally);
  };
  check_forward("prefill", call.kernel().prefill);
  check_forward("decode", call.kernel().decode);

  if (problem.has_nan) return;
  const Gradients one = call.run_backward(truth, 1), three = call.run_backward(truth, 3);
  const auto check_gradient = [&](const char* of, const Array& gradient, const Array& other,
                                  const std::vector<double>& exact,
                                  const std::vector<double>& naive) {
    const std::string which = name + ": gradient of " + of;
    // They start from an lse and an `out` that are rounded.
    judge(which, gradient, exact, naive, {3, 8, problem.type}, tally);
    expect_same(which, gradient, other, tally);
  };
  check_gradient("query", one.query, three.query, truth.grad_query, elements.grad_query);
  check_gradient("key", one.key, three.key, truth.grad_key, elements.grad_key);
  check_gradient("value", one.value, three.value, truth.grad_value, elements.grad_value);
  check_gradient("key_bias", one.key_bias, three.key_bias, truth.grad_key_bias,
                 elements.grad_key_bias);
  check_gradient("influence", one.influence, three.influence, truth.grad_influence,
                 elements.grad_influence);
  check_gradient("sinks", one.sinks, three.sinks, truth.grad_sinks, elements.grad_sinks);
}

}  // namespace

int main() {
  Tally tally;
  std::int64_t problems = 0;
  for (Problem& problem : shapes()) {
    for (const ElementType type : {kFloat32, ElementType::kBFloat16, ElementType::kFloat16}) {
      problem.type = type;
      check(problem, tally);
      ++problems;
    }
  }
  std::printf("%s: %lld problems, %lld numbers, %lld wrong results\n",
              guide::cpu::chosen_instruction_set(), static_cast<long long>(problems),
              static_cast<long long>(tally.numbers), static_cast<long long>(tally.wrong));
  return tally.wrong == 0 ? 0 : 1;
}
