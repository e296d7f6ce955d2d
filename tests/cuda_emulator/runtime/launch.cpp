// SPDX-License-Identifier: MIT
// A grid: its blocks one after the other, in the order of the schedule.
#include "launch.h"

#include <cfenv>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>

#include "block.h"
#include "report.h"
#include "scheduler.h"

namespace cuda_emulator {

std::mutex launch_mutex;
Block running_block;
Thread* running_thread = nullptr;

const Index& thread_index() { return running_thread->index; }
const Index& block_index() { return running_block.index; }
const dim3& block_dim() { return running_block.size; }
const dim3& grid_dim() { return running_block.grid; }
int lane_index() { return running_thread->lane; }

namespace {

// "… [with auto kKernel = guide::cuda::sm80::forward<Traits>; Params = …]" gives the kernel.
std::string kernel_name(const std::string& signature) {
  const std::string before = "kKernel = ";
  std::size_t begin = signature.find(before);
  if (begin == std::string::npos) return signature;
  begin += before.size();
  std::string name = signature.substr(begin, signature.find_first_of(";]", begin) - begin);
  for (const char* noise : {"guide::cuda::", "{anonymous}::", "(anonymous namespace)::", "&"}) {
    for (std::size_t at; (at = name.find(noise)) != std::string::npos;) {
      name.erase(at, std::strlen(noise));
    }
  }
  return name;
}

// "3", "0-31", "0-31, 64-95".
std::string list_threads(const std::vector<int>& threads) {
  std::string list;
  for (std::size_t first = 0; first < threads.size();) {
    std::size_t last = first;
    while (last + 1 < threads.size() && threads[last + 1] == threads[last] + 1) ++last;
    list += text(list.empty() ? "" : ", ", threads[first]);
    if (last > first) list += text("-", threads[last]);
    first = last + 1;
  }
  return list;
}

void report_deadlock() {
  std::vector<std::pair<std::string, std::vector<int>>> groups;
  for (const Thread& thread : running_block.threads) {
    std::string state = thread.has_exited ? "exited" : text("waiting at ", thread.waits_at);
    if (!thread.has_exited && thread.waits_at_id >= 0) {
      const Barrier& barrier = running_block.barriers[static_cast<std::size_t>(thread.waits_at_id)];
      state += text(" ", thread.waits_at_id, " (", barrier.arrived.size(), " of ", barrier.expected,
                    " threads)");
    }
    std::size_t group = 0;
    while (group < groups.size() && groups[group].first != state) ++group;
    if (group == groups.size()) groups.push_back({state, {}});
    groups[group].second.push_back(thread.number);
  }
  std::string message = "deadlock:";
  for (std::size_t group = 0; group < groups.size(); ++group) {
    message += text(group == 0 ? " " : "; ", groups[group].first, ": ",
                    list_threads(groups[group].second));
  }
  report_block(message);
}

void start_block(std::uint64_t number, std::size_t shared_bytes) {
  Block& block = running_block;
  block.index = {static_cast<unsigned>(number % block.grid.x),
                 static_cast<unsigned>(number / block.grid.x % block.grid.y),
                 static_cast<unsigned>(number / block.grid.x / block.grid.y)};
  const unsigned threads = block.size.x;
  block.threads.resize(threads);
  block.warps.resize((threads + kWarpSize - 1) / kWarpSize);
  for (Warp& warp : block.warps) {
    warp.runnable = 0;
    warp.at_barrier = 0;
    warp.meetings.clear();
  }
  for (unsigned i = 0; i < threads; ++i) {
    Thread& thread = block.threads[i];
    thread.number = static_cast<int>(i);
    thread.warp = thread.number / kWarpSize;
    thread.lane = thread.number % kWarpSize;
    thread.index = {i, 0, 0};
    thread.has_exited = false;
    thread.waits_at = nullptr;
    thread.copies.started.clear();
    thread.copies.finished = 0;
    thread.copies.open_group = 0;
    wake(thread);
  }
  for (Warp& warp : block.warps) warp.exited = ~warp.runnable;
  for (Barrier& barrier : block.barriers) {
    barrier.arrived.clear();
    barrier.waiting.clear();
  }
  block.shared_memory.start_block(shared_bytes);
  block.race_checker.start_block(static_cast<int>(threads));
}

void run_block(std::uint64_t number, std::size_t shared_bytes) {
  start_block(number, shared_bytes);
  random_choices.seed(schedule.seed * 0x2545f4914f6cdd1du + number);
  run_threads();
  ++statistics.blocks;
  for (const Thread& thread : running_block.threads) {
    if (thread.has_exited) continue;
    report_deadlock();
    return;
  }
}

std::vector<std::uint64_t> block_order(std::uint64_t blocks) {
  std::vector<std::uint64_t> order(blocks);
  std::iota(order.begin(), order.end(), std::uint64_t{0});
  if (schedule.policy == Policy::kReverse) {
    for (std::uint64_t i = 0; i < blocks; ++i) order[i] = blocks - 1 - i;
  } else if (schedule.policy == Policy::kRandom) {
    random_choices.seed(schedule.seed);
    for (std::uint64_t left = blocks; left > 1; --left) {
      std::swap(order[left - 1], order[random_choices.next() % left]);
    }
  }
  return order;
}

}  // namespace

cudaError_t detail::run_grid(const char* launch_signature, dim3 grid, unsigned threads,
                             std::size_t shared_bytes, KernelBody body, const void* params) {
  // CUDA programming guide, "Technical Specifications per Compute Capability".
  constexpr unsigned kMaxGridX = 0x7fffffffu, kMaxGridYz = 65535;
  if (threads == 0 || threads > kMaxThreads || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > kMaxGridX || grid.y > kMaxGridYz || grid.z > kMaxGridYz) {
    return cudaErrorInvalidConfiguration;
  }
  if (shared_bytes > kMaxSharedBytes) return cudaErrorInvalidValue;

  const std::lock_guard<std::mutex> lock(launch_mutex);
  // The caller may flush denormals or round otherwise; a GPU does not know of that.
  std::fenv_t callers_environment;
  std::fegetenv(&callers_environment);
  std::fesetenv(FE_DFL_ENV);
  running_block.kernel = kernel_name(launch_signature);
  running_block.grid = grid;
  running_block.size = dim3(threads);
  running_block.body = body;
  running_block.params = params;
  const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  for (const std::uint64_t number : block_order(blocks)) run_block(number, shared_bytes);
  std::fesetenv(&callers_environment);
  return cudaSuccess;
}

}  // namespace cuda_emulator
