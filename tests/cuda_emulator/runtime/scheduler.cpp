// SPDX-License-Identifier: MIT
#include "scheduler.h"

#include "block.h"
#include "report.h"

namespace cuda_emulator {
namespace {

// How often the random schedule leaves a warp that could go on.
constexpr double kLeaveWarp = 0.05;

Fiber caller;  // where run_threads() was called
StackPool stacks;

int lowest_lane(std::uint32_t lanes) { return __builtin_ctz(lanes); }
int highest_lane(std::uint32_t lanes) { return 31 - __builtin_clz(lanes); }

int random_lane(std::uint32_t lanes) {
  const std::uint32_t from = random_choices.below(kWarpSize);
  const std::uint32_t later = lanes >> from << from;
  return lowest_lane(later != 0 ? later : lanes);
}

// The warp to run; negative if none can. A warp goes on for as long as it can.
int choose_warp(int current) {
  const std::vector<Warp>& warps = running_block.warps;
  const int count = static_cast<int>(warps.size());
  const bool is_random = schedule.policy == Policy::kRandom;
  const auto can_run = [&](int warp) {
    return warps[static_cast<std::size_t>(warp)].runnable != 0;
  };
  if (current >= 0 && can_run(current) && !(is_random && random_choices.happens(kLeaveWarp))) {
    return current;
  }
  const int first =
      is_random ? static_cast<int>(random_choices.below(static_cast<std::uint32_t>(count))) : 0;
  for (int i = 0; i < count; ++i) {
    const int warp = schedule.policy == Policy::kReverse ? count - 1 - i : (first + i) % count;
    if (can_run(warp)) return warp;
  }
  return -1;
}

// The thread to run; null if none can.
Thread* choose_thread(int current_warp) {
  const int warp = choose_warp(current_warp);
  if (warp < 0) return nullptr;
  const std::uint32_t lanes = running_block.warps[static_cast<std::size_t>(warp)].runnable;
  const int lane = schedule.policy == Policy::kInOrder   ? lowest_lane(lanes)
                   : schedule.policy == Policy::kReverse ? highest_lane(lanes)
                                                         : random_lane(lanes);
  return &running_block.threads[static_cast<std::size_t>(warp * kWarpSize + lane)];
}

void leave(Thread& thread, bool for_good) {
  Warp& warp = running_block.warps[static_cast<std::size_t>(thread.warp)];
  warp.runnable &= ~(1u << thread.lane);
  Thread* next = choose_thread(thread.warp);
  running_thread = next;
  ++statistics.switches;
  (next != nullptr ? next->fiber : caller).switch_from(thread.fiber, for_good);
}

void thread_entry() {
  Fiber::entered();
  running_block.body(running_block.params);
  Thread& thread = *running_thread;
  finish_copies_at_exit();
  thread.has_exited = true;
  leave_warp();
  leave(thread, true);
  __builtin_unreachable();
}

}  // namespace

Schedule schedule;
Random random_choices;

std::uint32_t Random::next() {  // splitmix64
  std::uint64_t mixed = (state_ += 0x9e3779b97f4a7c15u);
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
  return static_cast<std::uint32_t>((mixed ^ (mixed >> 31)) >> 32);
}

void run_threads() {
  for (Thread& thread : running_block.threads) {
    thread.fiber.start(stacks.stack(static_cast<std::size_t>(thread.number)), thread_entry);
  }
  Thread* first = choose_thread(-1);
  running_thread = first;
  first->fiber.switch_from(caller);
}

void wait_at(const char* what, int id) {
  Thread& thread = *running_thread;
  thread.waits_at = what;
  thread.waits_at_id = id;
  leave(thread, false);
  thread.waits_at = nullptr;
}

void wake(Thread& thread) {
  running_block.warps[static_cast<std::size_t>(thread.warp)].runnable |= 1u << thread.lane;
}

}  // namespace cuda_emulator
