// SPDX-License-Identifier: MIT
// PTX ISA 9.0, "Memory Consistency Model", "Causality Order": barriers order the accesses before an
// arrival before those after a wait. Lanes of a warp are threads like all others: without
// bar.warp.sync nothing orders them.
#include "race_checker.h"

#include <algorithm>
#include <limits>

#include "block.h"
#include "report.h"

namespace cuda_emulator {
namespace {

constexpr std::size_t kCellBytes = 2;

// The stamp of a copy under way: later than everything.
constexpr std::int32_t kUnderWay = std::numeric_limits<std::int32_t>::max();
constexpr std::int32_t kMaxStamp = kUnderWay / 2;

std::size_t first_cell(std::uint32_t offset) { return offset / kCellBytes; }
std::size_t end_cell(std::uint32_t offset, int bytes) {
  return (offset + static_cast<std::size_t>(bytes) + kCellBytes - 1) / kCellBytes;
}

}  // namespace

void RaceChecker::start_block(int threads) {
  // Copies that the last block never waited for have left cells of a later stamp than any.
  if (cells_.empty() || last_stamp_ > kMaxStamp || copies_under_way_ != 0) {
    cells_.assign(kMaxSharedBytes / kCellBytes, Cell{});
    last_stamp_ = 0;
    copies_under_way_ = 0;
  }
  synchronise_block();
  clocks_.assign(static_cast<std::size_t>(threads), nullptr);
  own_.assign(static_cast<std::size_t>(threads), 0);
}

RaceChecker::Stamp RaceChecker::stamp_of(int thread) const {
  return std::max(own_[static_cast<std::size_t>(thread)], block_stamp_ + 1);
}

inline bool RaceChecker::is_ordered(const Access& before, int thread) const {
  if (before.stamp <= block_stamp_) return true;
  if (before.stamp == kUnderWay) return false;
  if (before.thread == thread) return true;
  const Clock* clock = clocks_[static_cast<std::size_t>(thread)].get();
  return clock != nullptr && before.stamp <= (*clock)[static_cast<std::size_t>(before.thread)];
}

void RaceChecker::report_race(const Thread& thread, std::uint32_t offset, int bytes,
                              const char* what, std::size_t cell, const char* did,
                              const Access& before) const {
  const std::string place = text(what, " of ", bytes, " bytes at shared offset ", offset);
  if (before.stamp == kUnderWay) {
    report(thread, text(place, ": thread ", before.thread, "'s cp.async to offset ",
                        cell * kCellBytes, " is under way"));
  } else {
    report(thread, text("race: ", place, ": thread ", before.thread, " ", did, " offset ",
                        cell * kCellBytes, ", and no barrier is in between"));
  }
}

void RaceChecker::read(const Thread& thread, std::uint32_t offset, int bytes, const char* what) {
  const Access access{stamp_of(thread.number), thread.number};
  bool has_race = false;
  for (std::size_t i = first_cell(offset); i < end_cell(offset, bytes); ++i) {
    Cell& cell = cells_[i];
    if (!has_race && !is_ordered(cell.write, thread.number)) {
      report_race(thread, offset, bytes, what, i, "wrote", cell.write);
      has_race = true;  // one report an access
    }
    // Whoever is ordered after this read is ordered after one that was before it.
    cell.reads[is_ordered(cell.reads[0], thread.number) ? 0 : 1] = access;
  }
}

bool RaceChecker::check_write(const Thread& thread, std::uint32_t offset, int bytes,
                              const char* what) {
  for (std::size_t i = first_cell(offset); i < end_cell(offset, bytes); ++i) {
    const Cell& cell = cells_[i];
    if (!is_ordered(cell.write, thread.number)) {
      report_race(thread, offset, bytes, what, i, "wrote", cell.write);
      return false;
    }
    for (const Access& read : cell.reads) {
      if (is_ordered(read, thread.number)) continue;
      report_race(thread, offset, bytes, what, i, "read", read);
      return false;
    }
  }
  return true;
}

void RaceChecker::set_writer(const Access& write, std::uint32_t offset, int bytes) {
  for (std::size_t i = first_cell(offset); i < end_cell(offset, bytes); ++i) {
    cells_[i] = {write, {}};
  }
}

void RaceChecker::write(const Thread& thread, std::uint32_t offset, int bytes, const char* what) {
  check_write(thread, offset, bytes, what);
  set_writer({stamp_of(thread.number), thread.number}, offset, bytes);
}

void RaceChecker::start_copy(const Thread& thread, std::uint32_t offset, int bytes) {
  check_write(thread, offset, bytes, "cp.async");
  set_writer({kUnderWay, thread.number}, offset, bytes);
  ++copies_under_way_;
}

void RaceChecker::finish_copy(const Thread& thread, std::uint32_t offset, int bytes) {
  --copies_under_way_;
  set_writer({stamp_of(thread.number), thread.number}, offset, bytes);
}

void RaceChecker::synchronise_block() {
  block_stamp_ = last_stamp_;
  ++last_stamp_;  // every thread's own stamp from now on
}

void RaceChecker::synchronise(const std::vector<int>& arrived, const std::vector<int>& waiting) {
  auto joined = std::make_shared<Clock>(own_.size(), 0);
  const Clock* last = nullptr;  // those who met before share a clock
  for (const int thread : arrived) {
    const Clock* clock = clocks_[static_cast<std::size_t>(thread)].get();
    if (clock == nullptr || clock == last) continue;
    last = clock;
    for (std::size_t i = 0; i < joined->size(); ++i) {
      (*joined)[i] = std::max((*joined)[i], (*clock)[i]);
    }
  }
  for (const int thread : arrived) {
    (*joined)[static_cast<std::size_t>(thread)] = stamp_of(thread);
  }
  ++last_stamp_;
  for (const int thread : arrived) own_[static_cast<std::size_t>(thread)] = last_stamp_;
  for (const int thread : waiting) clocks_[static_cast<std::size_t>(thread)] = joined;
}

}  // namespace cuda_emulator
