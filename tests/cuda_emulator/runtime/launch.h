// SPDX-License-Identifier: MIT
#pragma once

#include <mutex>

namespace cuda_emulator {

// Held by whatever uses the emulator's state: a launch, the ranges, the reports.
extern std::mutex launch_mutex;

}  // namespace cuda_emulator
