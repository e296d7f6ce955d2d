// SPDX-License-Identifier: MIT
#include "forward.h"

#include <atomic>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>

#include "kernel.h"

namespace guide::cpu {

#ifdef GUIDE_CPU_X86
extern const Kernel kKernelAvx512;
extern const Kernel kKernelAvx2;
#endif
extern const Kernel kKernelPortable;

namespace {

bool has_avx512() {
#ifdef GUIDE_CPU_X86
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

bool has_avx2() {
#ifdef GUIDE_CPU_X86
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

struct Candidate {
  const char* name;
  const Kernel* kernel;
  bool (*is_supported)();
};

// Best first.
constexpr Candidate kCandidates[] = {
#ifdef GUIDE_CPU_X86
    {"avx512", &kKernelAvx512, has_avx512},
    {"avx2", &kKernelAvx2, has_avx2},
#else
    {"avx512", nullptr, has_avx512},
    {"avx2", nullptr, has_avx2},
#endif
    {"portable", &kKernelPortable, [] { return true; }},
};

const Kernel& choose_kernel() {
  const char* override_name = std::getenv("GUIDE_EXT_CPU_ISA");
  const std::string wanted = override_name == nullptr ? "" : override_name;
  std::string supported;
  for (const Candidate& candidate : kCandidates) {
    if (!candidate.is_supported()) continue;
    if (wanted.empty() || wanted == candidate.name) return *candidate.kernel;
    supported += (supported.empty() ? "" : ", ") + std::string(candidate.name);
  }
  throw std::runtime_error(
      "guide_ext: GUIDE_EXT_CPU_ISA must name an instruction set of this processor (" + supported +
      "), got '" + wanted + "'; unset it to use the best one");
}

const Kernel& kernel() {
  static const Kernel& chosen = choose_kernel();
  return chosen;
}

// Cache-line aligned floats, the memory of a whole call. Allocated before any thread starts, so
// that no allocation can fail inside a parallel region.
class Arena {
 public:
  explicit Arena(std::int64_t num_floats) {
    const std::size_t bytes = static_cast<std::size_t>(num_floats) * sizeof(float);
    memory_ = static_cast<float*>(::operator new(bytes, kAlignment, std::nothrow));
    if (memory_ == nullptr) {
      throw std::runtime_error("biased_attention: no memory for " + std::to_string(bytes) +
                               " bytes of scratch space; use fewer threads or smaller batches");
    }
  }
  ~Arena() { ::operator delete(memory_, kAlignment); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  float* at(std::int64_t offset) const { return memory_ + offset; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  float* memory_;
};

// Threads beyond the work are not asked for: waking one costs more than a small call.
std::int64_t worker_count(const AttentionParams& params, const Plan& plan, std::int64_t threads) {
  constexpr double kProductsPerWorker = 1e6;
  const double products =
      static_cast<double>(params.batch) * static_cast<double>(params.num_heads) *
      static_cast<double>(params.seqlen_q) * static_cast<double>(params.seqlen_k) *
      static_cast<double>(params.head_dim + params.head_dim_v);
  std::int64_t workers = threads < plan.tasks ? threads : plan.tasks;
  if (products / kProductsPerWorker < static_cast<double>(workers)) {
    workers = static_cast<std::int64_t>(products / kProductsPerWorker);
  }
  return workers > 1 ? workers : 1;
}

using Step = void (*)(const AttentionParams&, const Plan&, std::int64_t, float*, float*);

// Everything that the workers of one step share.
struct Job {
  const AttentionParams& params;
  const Plan& plan;
  Step step;
  std::int64_t num_items;
  float* scratch;  // plan.scratch_floats for each worker
  float* partials;
  std::atomic<std::int64_t> next{0};
};

// Which worker takes which item is left to chance; no result depends on it.
void run_step(Job& job, std::int64_t workers, const ThreadPool& pool) {
  const auto body = [](void* context, std::int64_t worker) {
    Job& shared = *static_cast<Job*>(context);
    float* scratch = shared.scratch + worker * shared.plan.scratch_floats;
    for (;;) {
      const std::int64_t item = shared.next.fetch_add(1, std::memory_order_relaxed);
      if (item >= shared.num_items) return;
      shared.step(shared.params, shared.plan, item, scratch, shared.partials);
    }
  };
  if (workers == 1) {
    body(&job, 0);
  } else {
    pool.run(workers, body, &job);
  }
}

}  // namespace

const char* chosen_instruction_set() { return kernel().name; }

void forward(const AttentionParams& params, const ThreadPool& pool) {
  const Kernel& chosen = kernel();
  if (params.batch == 0 || params.seqlen_q == 0) return;
  const Plan plan = chosen.plan(params);
  const std::int64_t workers = worker_count(params, plan, pool.num_threads);
  const Arena arena(workers * plan.scratch_floats + plan.partial_floats);
  float* partials = arena.at(workers * plan.scratch_floats);

  Job tasks{params, plan, chosen.run_task, plan.tasks, arena.at(0), partials};
  run_step(tasks, workers, pool);
  if (plan.key_splits > 1) {
    Job groups{params, plan, chosen.merge_group, plan.groups, arena.at(0), partials};
    run_step(groups, workers < plan.groups ? workers : plan.groups, pool);
  }
}

}  // namespace guide::cpu
