// SPDX-License-Identifier: MIT
#include "backward.h"

#include <atomic>
#include <thread>

namespace guide::cpu {

namespace {

// Five products of a query with each key. Rows are prepared and sums finished in no time beside.
std::int64_t worker_count(const BackwardParams& params, const BackwardPlan& plan,
                          std::int64_t threads) {
  const AttentionParams& call = params.call;
  const double products = static_cast<double>(call.batch) * static_cast<double>(call.num_heads) *
                          static_cast<double>(call.seqlen_q) * static_cast<double>(call.seqlen_k) *
                          static_cast<double>(3 * call.head_dim + 2 * call.head_dim_v);
  return workers_for(products / kProductsPerWorker, std::max(plan.tasks, plan.row_tasks), threads);
}

// Everything that the workers of one step share. Tasks begin in their order, as those that wait
// for earlier ones need.
struct Step {
  const BackwardParams& params;
  const BackwardPlan& plan;
  const BackwardRoutine& routine;
  void (*run)(const Step& step, std::int64_t task_idx, float* scratch);
  std::int64_t tasks;
  float* scratch;  // plan.scratch_floats for each worker
  float* shared;
  std::atomic<std::int64_t> next_task{0};
};

void work(void* context, std::int64_t worker) {
  Step& step = *static_cast<Step*>(context);
  float* scratch = step.scratch + worker * step.plan.scratch_floats;
  for (;;) {
    const std::int64_t task_idx = step.next_task.fetch_add(1, std::memory_order_relaxed);
    if (task_idx >= step.tasks) return;
    step.run(step, task_idx, scratch);
  }
}

void pause() { std::this_thread::yield(); }

void prepare_rows(const Step& step, std::int64_t task_idx, float* scratch) {
  step.routine.prepare_rows(step.params, step.plan, task_idx, scratch, step.shared);
}

void run_task(const Step& step, std::int64_t task_idx, float* scratch) {
  step.routine.run_task(step.params, step.plan, task_idx, scratch, step.shared, pause);
}

void finish(const Step& step, std::int64_t task_idx, float* scratch) {
  step.routine.finish(step.params, step.plan, task_idx, scratch, step.shared);
}

}  // namespace

void backward(const BackwardParams& params, const Kernel& kernel, const ThreadPool& pool) {
  const BackwardRoutine& routine = kernel.backward;
  const BackwardPlan plan = routine.plan(params);
  const std::int64_t workers = worker_count(params, plan, pool.num_threads);
  const Arena arena(workers * plan.scratch_floats + plan.shared_floats);
  float* shared = arena.at(workers * plan.scratch_floats);
  const auto run = [&](auto* function, std::int64_t tasks) {
    Step step{params, plan, routine, function, tasks, arena.at(0), shared};
    if (workers == 1) {
      work(&step, 0);
    } else {
      pool.run(workers, work, &step);
    }
  };
  run(prepare_rows, plan.row_tasks);
  run(run_task, plan.tasks);
  run(finish, plan.finish_tasks);
}

}  // namespace guide::cpu
