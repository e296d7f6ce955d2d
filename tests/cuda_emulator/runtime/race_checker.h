// SPDX-License-Identifier: MIT
// Finds accesses to shared memory that no barrier orders, whether or not they did harm this time.
//
// Happens-before with vector clocks. Each thread stamps its accesses with a number that grows when
// it passes a barrier. For each cell of two bytes the checker keeps the last write and two reads.
// An access by another thread is ordered before thread t's if its stamp is at most what t's clock
// says of that thread: barriers join the clocks of those who meet at them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace cuda_emulator {

struct Thread;

class RaceChecker {
 public:
  void start_block(int threads);

  void read(const Thread& thread, std::uint32_t offset, int bytes, const char* what);
  void write(const Thread& thread, std::uint32_t offset, int bytes, const char* what);

  // An asynchronous copy writes when it starts, and to all but its own thread again when it ends.
  // In between nobody may touch the bytes.
  void start_copy(const Thread& thread, std::uint32_t offset, int bytes);
  void finish_copy(const Thread& thread, std::uint32_t offset, int bytes);

  // What `arrived` did before is ordered before what `waiting`, a part of them, will do.
  void synchronise(const std::vector<int>& arrived, const std::vector<int>& waiting);
  // The same for all threads of the block, at no cost.
  void synchronise_block();

 private:
  // Stamps rise over all threads and blocks, so that old ones need not be erased.
  using Stamp = std::int32_t;
  using Clock = std::vector<Stamp>;  // by thread

  struct Access {
    Stamp stamp;
    std::int32_t thread;
  };
  struct Cell {
    Access write;
    Access reads[2];
  };

  Stamp stamp_of(int thread) const;
  bool is_ordered(const Access& before, int thread) const;
  void report_race(const Thread& thread, std::uint32_t offset, int bytes, const char* what,
                   std::size_t cell, const char* did, const Access& before) const;
  bool check_write(const Thread& thread, std::uint32_t offset, int bytes, const char* what);
  void set_writer(const Access& write, std::uint32_t offset, int bytes);

  std::vector<Cell> cells_;
  std::vector<std::shared_ptr<const Clock>> clocks_;  // null: knows nothing but block_stamp_
  std::vector<Stamp> own_;                            // by thread; at least block_stamp_ + 1
  Stamp block_stamp_ = 0;                             // up to here everything is ordered
  Stamp last_stamp_ = 0;                              // the largest one given
  int copies_under_way_ = 0;
};

}  // namespace cuda_emulator
