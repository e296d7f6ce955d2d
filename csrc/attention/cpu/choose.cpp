// SPDX-License-Identifier: MIT
#include "choose.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "amx_processor.h"
#include "self_check.h"

namespace guide::cpu {

extern const Kernel kKernelAmx;
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

[[maybe_unused]] bool has_amx_and_vectors() {
#ifdef GUIDE_AMX_EMULATED  // over whatever vectors the build has
  return has_amx();
#else
  return has_avx512bf16() && has_amx();
#endif
}

[[maybe_unused]] bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
#endif

struct Candidate {
  const Kernel* kernel;
  bool (*is_supported)();
  // Null for one that is used wherever it is there. Others are used on request alone: this says why
  // they cannot be, nothing if they can. The other kernel is known to be right.
  std::string (*switch_on)(const Kernel& kernel, const Kernel& trusted);
};

// It was written without a machine that has it: each has to show that it computes the same.
[[maybe_unused]] std::string switch_on_amx(const Kernel& kernel, const Kernel& trusted) {
  const std::string refusal = request_amx();
  if (!refusal.empty()) return "the system refuses the tile registers (" + refusal + ")";
  const std::string difference = find_difference(kernel, trusted);
  if (difference.empty()) return "";
  return "its results are not those of " + std::string(trusted.name) + ": " + difference;
}

// Best first. CMakeLists.txt defines GUIDE_HAS_... for each instruction set that it builds.
constexpr Candidate kCandidates[] = {
#ifdef GUIDE_HAS_AMX
    {&kKernelAmx, has_amx_and_vectors, switch_on_amx},
#endif
#ifdef GUIDE_HAS_AVX512BF16
    {&kKernelAvx512bf16, has_avx512bf16, nullptr},
#endif
#ifdef GUIDE_HAS_AVX512
    {&kKernelAvx512, has_avx512, nullptr},
#endif
#ifdef GUIDE_HAS_AVX2
    {&kKernelAvx2, has_avx2, nullptr},
#endif
#ifdef GUIDE_HAS_NEON
    {&kKernelNeon, [] { return true; }, nullptr},  // every processor that it is built for has it
#endif
    {&kKernelPortable, [] { return true; }, nullptr},
};

struct InstructionSet {
  const Kernel* kernel;
  std::string forced;  // what GUIDE_EXT_CPU_ISA says; empty without it
};

// The best one of those that need no request.
const Kernel& default_kernel() {
  for (const Candidate& candidate : kCandidates) {
    if (candidate.switch_on == nullptr && candidate.is_supported()) return *candidate.kernel;
  }
  return kKernelPortable;
}

// Makes a candidate that was asked for usable, or throws.
const Kernel* switched_on(const Candidate& candidate) {
  if (candidate.switch_on == nullptr) return candidate.kernel;
  const std::string problem = candidate.switch_on(*candidate.kernel, default_kernel());
  if (problem.empty()) return candidate.kernel;
  throw SwitchOnError("GUIDE_EXT_CPU_ISA=" + std::string(candidate.kernel->name) +
                      " cannot be used here: " + problem);
}

InstructionSet choose_instruction_set() {
  const char* override_name = std::getenv("GUIDE_EXT_CPU_ISA");
  const std::string wanted = override_name == nullptr ? "" : override_name;
  if (wanted.empty()) return {&default_kernel(), wanted};
  std::string supported;
  for (const Candidate& candidate : kCandidates) {
    if (!candidate.is_supported()) continue;
    const std::string name = candidate.kernel->name;
    if (wanted == name) return {switched_on(candidate), wanted};
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

// Says what is there and not used, because nobody has asked for it.
void add_unused_sets(const AttentionParams& params, const Kernel& used, const Routine& routine,
                     Reasons* reasons) {
  if (reasons == nullptr || params.element_type != ElementType::kBFloat16) return;
  if (&routine != &used.prefill || !instruction_set().forced.empty()) return;
  for (const Candidate& candidate : kCandidates) {
    if (candidate.switch_on == nullptr || !candidate.is_supported()) continue;
    const std::string name = candidate.kernel->name;
    reasons->push_back("this processor has " + name +
                       ", whose kernel nobody has measured yet: GUIDE_EXT_CPU_ISA=" + name +
                       " checks its results and uses it");
  }
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
  const Routine& routine = faster_routine(params, kernel);
  add_unused_sets(params, kernel, routine, reasons);
  return {&kernel, &routine};
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

SwitchOnError::SwitchOnError(const std::string& words)
    : std::runtime_error("guide_ext: " + words + "; unset it to use the best other one"),
      problem(words) {}

const char* chosen_instruction_set() { return instruction_set().kernel->name; }

}  // namespace guide::cpu
