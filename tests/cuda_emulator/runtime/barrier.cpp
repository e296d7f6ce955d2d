// SPDX-License-Identifier: MIT
// PTX ISA 9.0, "bar, barrier": bar.sync arrives and waits, bar.arrive only arrives. When the
// expected number of threads has arrived, the barrier completes, is free again, and memory accesses
// before an arrival are ordered before those after a wait.
//
// Stricter than hardware: a thread that has exited still counts as one that is missing.
#include "barrier.h"

#include <algorithm>

#include "block.h"
#include "report.h"
#include "scheduler.h"

namespace cuda_emulator {
namespace {

void complete(Barrier& barrier, int block_threads) {
  RaceChecker& checker = running_block.race_checker;
  if (static_cast<int>(barrier.waiting.size()) == block_threads) {
    checker.synchronise_block();
  } else {
    checker.synchronise(barrier.arrived, barrier.waiting);
  }
  for (const int thread : barrier.waiting) {
    wake(running_block.threads[static_cast<std::size_t>(thread)]);
  }
  barrier.arrived.clear();
  barrier.waiting.clear();
}

void arrive(const char* name, int id, int threads, bool waits) {
  const int block_threads = static_cast<int>(running_block.threads.size());
  if (id < 0 || id >= kBarriers) {
    report(text(name, " ", id, ": barriers have the numbers 0 to ", kBarriers - 1));
    return;
  }
  if (threads >= 0 && (threads == 0 || threads % kWarpSize != 0 || threads > block_threads)) {
    report(text(name, " ", id, " for ", threads, " threads: must be a multiple of ", kWarpSize,
                " and at most the ", block_threads, " of the block"));
    return;
  }
  const int expected = threads < 0 ? block_threads : threads;
  Barrier& barrier = running_block.barriers[static_cast<std::size_t>(id)];
  const int me = running_thread->number;
  if (barrier.arrived.empty()) {
    barrier.expected = expected;
  } else if (barrier.expected != expected) {
    report(text(name, " ", id, " for ", expected, " threads, but thread ", barrier.arrived.front(),
                " is there for ", barrier.expected));
  }
  // A thread that waits cannot come again, so only an arrival without a wait needs the search.
  if (barrier.waiting.size() != barrier.arrived.size() &&
      std::find(barrier.arrived.begin(), barrier.arrived.end(), me) != barrier.arrived.end()) {
    report(
        text(name, " ", id, ": this thread has arrived already, and the barrier is not complete"));
  }
  barrier.arrived.push_back(me);
  if (waits) barrier.waiting.push_back(me);
  if (static_cast<int>(barrier.arrived.size()) >= barrier.expected) {
    complete(barrier, block_threads);
  } else if (waits) {
    wait_at("barrier", id);
  }
}

}  // namespace

void bar_sync(int id, int threads) { arrive("bar.sync", id, threads, true); }
void bar_arrive(int id, int threads) { arrive("bar.arrive", id, threads, false); }

}  // namespace cuda_emulator
