// SPDX-License-Identifier: MIT
#include "choose.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace guide::cpu {

extern const Kernel kKernelAvx512bf16;
extern const Kernel kKernelAvx512;
extern const Kernel kKernelAvx2;
extern const Kernel kKernelNeon;
extern const Kernel kKernelPortable;

namespace {

#ifdef __x86_64__
[[maybe_unused]] bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

[[maybe_unused]] bool has_avx512bf16() {
  return has_avx512() && __builtin_cpu_supports("avx512bf16");
}

[[maybe_unused]] bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
#endif

struct Candidate {
  const Kernel* kernel;
  bool (*is_supported)();
};

// Best first. CMakeLists.txt defines GUIDE_HAS_... for each instruction set that it builds.
constexpr Candidate kCandidates[] = {
#ifdef GUIDE_HAS_AVX512BF16
    {&kKernelAvx512bf16, has_avx512bf16},
#endif
#ifdef GUIDE_HAS_AVX512
    {&kKernelAvx512, has_avx512},
#endif
#ifdef GUIDE_HAS_AVX2
    {&kKernelAvx2, has_avx2},
#endif
#ifdef GUIDE_HAS_NEON
    {&kKernelNeon, [] { return true; }},  // every processor that it is built for has it
#endif
    {&kKernelPortable, [] { return true; }},
};

struct InstructionSet {
  const Kernel* kernel;
  std::string forced;  // what GUIDE_EXT_CPU_ISA says; empty without it
};

InstructionSet choose_instruction_set() {
  const char* override_name = std::getenv("GUIDE_EXT_CPU_ISA");
  const std::string wanted = override_name == nullptr ? "" : override_name;
  std::string supported;
  for (const Candidate& candidate : kCandidates) {
    if (!candidate.is_supported()) continue;
    const std::string name = candidate.kernel->name;
    if (wanted.empty() || wanted == name) return {candidate.kernel, wanted};
    supported += (supported.empty() ? "" : ", ") + name;
  }
  throw std::runtime_error(
      "guide_ext: GUIDE_EXT_CPU_ISA must name an instruction set that was built and that this "
      "processor has (" +
      supported + "), got '" + wanted + "'; unset it to use the best one");
}

const InstructionSet& instruction_set() {
  static const InstructionSet chosen = choose_instruction_set();
  return chosen;
}

void find_obstacles(const AttentionParams& params, Obstacles& obstacles) {
  // Beyond this the packed queries and keys of a task outgrow every cache.
  constexpr std::int64_t kMaxHeadDim = 512;
  if (params.element_type != ElementType::kFloat32 &&
      params.element_type != ElementType::kBFloat16 &&
      params.element_type != ElementType::kFloat16) {
    obstacles.add("query is ", name_of(params.element_type),
                  ": the compiled CPU kernels take float16, bfloat16 and float32");
  }
  add_large_heads(params, "CPU", kMaxHeadDim, obstacles);
}

const Kernel& best_kernel(Reasons* reasons) {
  const InstructionSet& chosen = instruction_set();
  if (reasons != nullptr && !chosen.forced.empty()) {
    reasons->push_back("GUIDE_EXT_CPU_ISA=" + chosen.forced + " chooses the instruction set");
  }
  return *chosen.kernel;
}

const Routine& faster_routine(const AttentionParams& params, const Kernel& kernel) {
  const std::int64_t most_rows = params.element_type == ElementType::kFloat32
                                     ? kernel.most_decode_rows
                                     : kernel.most_decode_rows_of_halves;
  return params.group_size * params.seqlen_q <= most_rows ? kernel.decode : kernel.prefill;
}

}  // namespace

Choice choose(const AttentionParams& params, Reasons* reasons) {
  Obstacles obstacles(reasons);
  find_obstacles(params, obstacles);
  if (obstacles.any()) return {nullptr, nullptr};
  const Kernel& kernel = best_kernel(reasons);
  return {&kernel, &faster_routine(params, kernel)};
}

const Kernel* choose_backward(const AttentionParams& params, bool wants_attn_bias,
                              Reasons* reasons) {
  Obstacles obstacles(reasons);
  find_obstacles(params, obstacles);
  if (wants_attn_bias) {
    obstacles.add(
        "attn_bias wants a gradient, which is as large as all scores: the compiled CPU kernels "
        "compute none");
  }
  return obstacles.any() ? nullptr : &best_kernel(reasons);
}

const char* chosen_instruction_set() { return instruction_set().kernel->name; }

}  // namespace guide::cpu
