// SPDX-License-Identifier: MIT
#include "forward.h"

#include <algorithm>
#include <atomic>
#include <vector>

namespace guide::cpu {

namespace {

std::int64_t bytes_of_keys_and_values(const AttentionParams& params) {
  const std::int64_t element_size = params.element_type == ElementType::kFloat32 ? 4 : 2;
  return params.batch * params.num_kv_heads * params.seqlen_k *
         (params.head_dim + params.head_dim_v) * element_size;
}

// The work is arithmetic, or with few queries the reading of keys and values.
std::int64_t worker_count(const AttentionParams& params, const Plan& plan, std::int64_t threads) {
  constexpr double kBytesPerWorker = 4e5;
  const double products =
      static_cast<double>(params.batch) * static_cast<double>(params.num_heads) *
      static_cast<double>(params.seqlen_q) * static_cast<double>(params.seqlen_k) *
      static_cast<double>(params.head_dim + params.head_dim_v);
  const double bytes = static_cast<double>(bytes_of_keys_and_values(params));
  const double useful = std::max(products / kProductsPerWorker, bytes / kBytesPerWorker);
  return workers_for(useful, plan.tasks, threads);
}

// Everything that the workers of one call share.
struct Job {
  const AttentionParams& params;
  const Plan& plan;
  const Routine& routine;
  float* scratch;  // plan.scratch_floats for each worker
  float* partials;
  std::vector<std::atomic<std::int64_t>> finished_splits;  // of each group, with key splits
  std::atomic<std::int64_t> next_task{0};
};

// Which worker takes which task is left to chance; no result depends on it. The last to finish a
// split of a group merges them all.
void work(void* context, std::int64_t worker) {
  Job& job = *static_cast<Job*>(context);
  const Plan& plan = job.plan;
  float* scratch = job.scratch + worker * plan.scratch_floats;
  for (;;) {
    const std::int64_t task_idx = job.next_task.fetch_add(1, std::memory_order_relaxed);
    if (task_idx >= plan.tasks) return;
    job.routine.run_task(job.params, plan, task_idx, scratch, job.partials);
    if (plan.key_splits == 1) continue;
    const std::int64_t group_idx = task_idx / plan.key_splits;
    auto& finished = job.finished_splits[static_cast<std::size_t>(group_idx)];
    if (finished.fetch_add(1, std::memory_order_acq_rel) + 1 == plan.key_splits) {
      job.routine.merge_group(job.params, plan, group_idx, scratch, job.partials);
    }
  }
}

}  // namespace

void forward(const AttentionParams& params, const Choice& choice, const ThreadPool& pool) {
  const Routine& routine = *choice.routine;
  if (params.batch == 0 || params.seqlen_q == 0) return;
  const Plan plan = routine.plan(params);
  const std::int64_t workers = worker_count(params, plan, pool.num_threads);
  const Arena arena(workers * plan.scratch_floats + plan.partial_floats);
  float* partials = arena.at(workers * plan.scratch_floats);

  const std::int64_t counters = plan.key_splits > 1 ? plan.groups : 0;
  Job job{params,   plan,
          routine,  arena.at(0),
          partials, std::vector<std::atomic<std::int64_t>>(static_cast<std::size_t>(counters))};
  if (workers == 1) {
    work(&job, 0);
  } else {
    pool.run(workers, work, &job);
  }
}

}  // namespace guide::cpu
