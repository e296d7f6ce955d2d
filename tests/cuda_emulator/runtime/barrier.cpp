// SPDX-License-Identifier: MIT
// PTX ISA 9.0, "bar, barrier": bar.sync arrives and waits, bar.arrive only arrives. When the
// expected number of threads has arrived, the barrier completes, is free again, and memory accesses
// before an arrival are ordered before those after a wait. All lanes of a warp that have not exited
// come to the same barrier.
//
// Stricter than hardware: a thread that has exited still counts as one that is missing.
#include "barrier.h"

#include <algorithm>

#include "block.h"
#include "report.h"
#include "scheduler.h"

namespace cuda_emulator {
namespace {

Thread& thread_of(int number) { return running_block.threads[static_cast<std::size_t>(number)]; }

Warp& warp_of(const Thread& thread) {
  return running_block.warps[static_cast<std::size_t>(thread.warp)];
}

// Reports operands that no barrier takes.
bool check_operands(const char* name, int id, int threads, int block_threads) {
  if (id < 0 || id >= kBarriers) {
    report(text(name, " ", id, ": barriers have the numbers 0 to ", kBarriers - 1));
    return false;
  }
  if (threads >= 0 && (threads == 0 || threads % kWarpSize != 0 || threads > block_threads)) {
    report(text(name, " ", id, " for ", threads, " threads: must be a multiple of ", kWarpSize,
                " and at most the ", block_threads, " of the block"));
    return false;
  }
  return true;
}

// Reports a meeting of threads that do not mean the same barrier.
void check_agreement(const char* name, int id, int expected, bool waits, const Barrier& barrier) {
  const Thread& me = *running_thread;
  const Warp& warp = warp_of(me);
  // A lane that only arrives may be behind those that wait at a later barrier.
  if (waits && warp.at_barrier != 0 && warp.barrier != id) {
    report(text("divergent warp: executes ", name, " ", id, " while thread ",
                me.warp * kWarpSize + __builtin_ctz(warp.at_barrier), " waits at barrier ",
                warp.barrier));
  }
  if (barrier.arrived.empty()) return;
  if (barrier.expected != expected) {
    report(text(name, " ", id, " for ", expected, " threads, but thread ", barrier.arrived.front(),
                " is there for ", barrier.expected));
  }
  // A thread that waits cannot come again, so only arrivals without a wait need the search.
  if (barrier.waiting.size() != barrier.arrived.size() &&
      std::find(barrier.arrived.begin(), barrier.arrived.end(), me.number) !=
          barrier.arrived.end()) {
    report(
        text(name, " ", id, ": this thread has arrived already, and the barrier is not complete"));
  }
}

void complete(Barrier& barrier, int block_threads) {
  RaceChecker& checker = running_block.race_checker;
  if (static_cast<int>(barrier.waiting.size()) == block_threads) {
    checker.synchronise_block();
  } else {
    checker.synchronise(barrier.arrived, barrier.waiting);
  }
  for (const int number : barrier.waiting) {
    Thread& thread = thread_of(number);
    warp_of(thread).at_barrier &= ~(1u << thread.lane);
    wake(thread);
  }
  barrier.arrived.clear();
  barrier.waiting.clear();
}

void arrive(const char* name, int id, int threads, bool waits) {
  const int block_threads = static_cast<int>(running_block.threads.size());
  if (!check_operands(name, id, threads, block_threads)) return;
  const int expected = threads < 0 ? block_threads : threads;
  Barrier& barrier = running_block.barriers[static_cast<std::size_t>(id)];
  check_agreement(name, id, expected, waits, barrier);

  const Thread& me = *running_thread;
  if (barrier.arrived.empty()) barrier.expected = expected;
  barrier.arrived.push_back(me.number);
  if (waits) barrier.waiting.push_back(me.number);
  if (static_cast<int>(barrier.arrived.size()) >= barrier.expected) {
    complete(barrier, block_threads);
  } else if (waits) {
    Warp& warp = warp_of(me);
    warp.at_barrier |= 1u << me.lane;
    warp.barrier = id;
    wait_at("barrier", id);
  }
}

}  // namespace

void bar_sync(int id, int threads) { arrive("bar.sync", id, threads, true); }

void bar_arrive(int id, int threads) {
  if (threads < 0) {
    report(text("bar.arrive ", id, ": needs a number of threads"));
    return;
  }
  arrive("bar.arrive", id, threads, false);
}

}  // namespace cuda_emulator
