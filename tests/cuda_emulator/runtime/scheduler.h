// SPDX-License-Identifier: MIT
// Which thread runs next.
//
// A thread runs until it must wait, so that warps, and lanes of a warp, run as far apart as the
// barriers let them: an order that a GPU never shows on a good day, and may on a bad one.
#pragma once

#include <cstdint>

namespace cuda_emulator {

struct Thread;

enum class Policy { kInOrder, kReverse, kRandom };

struct Schedule {
  Policy policy = Policy::kInOrder;
  std::uint64_t seed = 0;
};

extern Schedule schedule;

// A small generator of its own: the same seed gives the same schedule with every C++ library.
class Random {
 public:
  void seed(std::uint64_t value) { state_ = value; }
  std::uint32_t next();
  std::uint32_t below(std::uint32_t limit) { return next() % limit; }
  bool happens(double probability) { return next() < probability * 4294967296.0; }

 private:
  std::uint64_t state_ = 0;
};

extern Random random_choices;

// Runs all threads of the block until each has exited or waits for what will not come.
void run_threads();

// Stops the running thread until another one wakes it. `what` and `id` are for deadlock reports.
void wait_at(const char* what, int id = -1);

void wake(Thread& thread);

}  // namespace cuda_emulator
