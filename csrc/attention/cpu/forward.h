// SPDX-License-Identifier: MIT
// Entry point of the CPU backend.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "choose.h"

namespace guide::cpu {

// The caller's thread pool: runs body(context, worker) for every worker in [0, workers), possibly
// at the same time. A plain function pointer keeps this library free of torch.
struct ThreadPool {
  std::int64_t num_threads;
  void (*run)(std::int64_t workers, void (*body)(void* context, std::int64_t worker),
              void* context);
};

// There is no scratch memory.
struct OutOfMemory : std::runtime_error {
  explicit OutOfMemory(std::int64_t missing_bytes);
  std::int64_t bytes;
};

// Computes out, influence_out and lse of one call with what choose() found for it, which must be a
// kernel. Throws OutOfMemory, with nothing written yet.
void forward(const AttentionParams& params, const Choice& choice, const ThreadPool& pool);

}  // namespace guide::cpu
