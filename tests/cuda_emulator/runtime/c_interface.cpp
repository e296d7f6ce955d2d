// SPDX-License-Identifier: MIT
// What Python calls through ctypes. The only symbols that a library with the emulator must show.
#include <cstdint>
#include <cstring>
#include <mutex>
#include <string>

#include "launch.h"
#include "report.h"
#include "scheduler.h"

#define CUDA_EMULATOR_EXPORT extern "C" __attribute__((visibility("default")))

using cuda_emulator::launch_mutex;

// "in-order", "reverse" or "random", of which only the last needs the seed; otherwise returns 1.
CUDA_EMULATOR_EXPORT int cuda_emulator_set_schedule(const char* policy, std::uint64_t seed) {
  using cuda_emulator::Policy;
  const std::lock_guard<std::mutex> lock(launch_mutex);
  if (std::strcmp(policy, "in-order") == 0) {
    cuda_emulator::schedule = {Policy::kInOrder, seed};
  } else if (std::strcmp(policy, "reverse") == 0) {
    cuda_emulator::schedule = {Policy::kReverse, seed};
  } else if (std::strcmp(policy, "random") == 0) {
    cuda_emulator::schedule = {Policy::kRandom, seed};
  } else {
    return 1;
  }
  return 0;
}

// Reports since the last call, one a line; empty if none. Valid until the next call.
CUDA_EMULATOR_EXPORT const char* cuda_emulator_take_reports() {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  static std::string reports;
  reports = cuda_emulator::take_reports();
  return reports.c_str();
}

// Counts since the last call, as JSON. Valid until the next call.
CUDA_EMULATOR_EXPORT const char* cuda_emulator_take_statistics() {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  const cuda_emulator::Statistics counts = cuda_emulator::statistics;
  cuda_emulator::statistics = {};
  static std::string json;
  json = cuda_emulator::text(
      "{\"blocks\": ", counts.blocks, ", \"switches\": ", counts.switches,
      ", \"async_copies\": ", counts.async_copies, ", \"load_matrices\": ", counts.load_matrices,
      ", \"bank_conflicts\": ", counts.bank_conflicts, ", \"mma\": ", counts.mma, "}");
  return json.c_str();
}
