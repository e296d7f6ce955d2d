// SPDX-License-Identifier: MIT
// Kernels get raw pointers, so the host says which bytes are behind them. Races in global memory
// are not looked for: blocks run one after the other.
#include "global_memory.h"

#include <cstdint>
#include <limits>
#include <mutex>
#include <string>
#include <vector>

#include "block.h"
#include "launch.h"
#include "report.h"

namespace cuda_emulator {
namespace {

struct Range {
  std::uintptr_t begin, end;
  std::string name;
  bool is_writable;
};

std::vector<Range> ranges;
std::size_t last_hit = 0;  // the next access is likely to fall into the same range

bool holds(const Range& range, std::uintptr_t begin, std::uintptr_t end) {
  return range.begin <= begin && end <= range.end;
}

const Range* find_range(std::uintptr_t begin, std::uintptr_t end) {
  if (last_hit < ranges.size() && holds(ranges[last_hit], begin, end)) return &ranges[last_hit];
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    if (!holds(ranges[i], begin, end)) continue;
    last_hit = i;
    return &ranges[i];
  }
  return nullptr;
}

// Where an access lies relative to the range that it misses by the fewest bytes.
std::string describe_nearest(std::uintptr_t begin, std::uintptr_t end) {
  std::string nearest;
  std::uintptr_t fewest = std::numeric_limits<std::uintptr_t>::max();
  for (const Range& range : ranges) {
    const bool is_before = begin < range.begin;
    const std::uintptr_t distance = is_before ? range.begin - begin : end - range.end;
    if (distance >= fewest) continue;
    fewest = distance;
    nearest = is_before ? text("begins ", distance, " bytes before the begin of ")
                        : text("ends ", distance, " bytes past the end of ");
    nearest += text(range.name, ", which has ", range.end - range.begin, " bytes");
  }
  return nearest;
}

}  // namespace

bool check_global_range(const void* address, int bytes, bool is_write, const char* what) {
  if (ranges.empty()) return true;
  const auto begin = reinterpret_cast<std::uintptr_t>(address);
  const std::uintptr_t end = begin + static_cast<std::uintptr_t>(bytes);
  const Range* range = find_range(begin, end);
  if (range == nullptr) {
    report(text(what, " of ", bytes, " bytes at ", address,
                " is out of bounds: ", describe_nearest(begin, end)));
    return false;
  }
  if (is_write && !range->is_writable) {
    report(text(what, " of ", bytes, " bytes at byte ", begin - range->begin, " of ", range->name,
                ", which is read-only"));
    return false;
  }
  return true;
}

bool check_global(const void* address, int bytes, bool is_write) {
  const char* what = is_write ? "st.global" : "ld.global";
  if (!check_global_range(address, bytes, is_write, what)) return false;
  if (ranges.empty()) return true;
  if (reinterpret_cast<std::uintptr_t>(address) % static_cast<std::uintptr_t>(bytes) != 0) {
    const auto begin = reinterpret_cast<std::uintptr_t>(address);
    const Range* range = find_range(begin, begin + static_cast<std::uintptr_t>(bytes));
    report(text(what, " of ", bytes, " bytes at byte ", begin - range->begin, " of ", range->name,
                ": the address ", address, " is not a multiple of ", bytes));
    return false;
  }
  return true;
}

void add_global_range(const void* begin, std::size_t bytes, const char* name, bool is_writable) {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  const auto address = reinterpret_cast<std::uintptr_t>(begin);
  ranges.push_back({address, address + bytes, name, is_writable});
}

void clear_global_ranges() {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  ranges.clear();
}

}  // namespace cuda_emulator
