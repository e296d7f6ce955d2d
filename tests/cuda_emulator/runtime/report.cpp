// SPDX-License-Identifier: MIT
#include "report.h"

#include <utility>

#include "block.h"

namespace cuda_emulator {
namespace {

// One error soon repeats in every thread; the first reports tell it all.
constexpr int kKeptReports = 24;

std::string kept;
std::uint64_t count = 0;

void add(const std::string& line) {
  if (++count <= kKeptReports) kept += line + "\n";
}

std::string block_name() {
  const Block& block = running_block;
  return text(block.kernel, ", block (", block.index.x, ", ", block.index.y, ", ", block.index.z,
              ")");
}

}  // namespace

Statistics statistics;

void report(const Thread& thread, const std::string& what) {
  add(text(block_name(), ", thread ", thread.number, " (warp ", thread.warp, ", lane ", thread.lane,
           "): ", what));
}

void report(const std::string& what) { report(*running_thread, what); }

void report_block(const std::string& what) { add(text(block_name(), ": ", what)); }

std::string take_reports() {
  std::string lines = std::move(kept);
  if (count > kKeptReports) lines += text("and ", count - kKeptReports, " more reports\n");
  kept.clear();
  count = 0;
  return lines;
}

}  // namespace cuda_emulator
