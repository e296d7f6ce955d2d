// SPDX-License-Identifier: MIT
// Entry point of the CPU backend.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "../params.h"

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

// Computes out, influence_out and lse of one call.
// Throws OutOfMemory, with nothing written yet, or as chosen_instruction_set() does.
void forward(const AttentionParams& params, const ThreadPool& pool);

// The instruction set that forward() uses: "avx512bf16", "avx512", "avx2" or "portable". The best
// one that the processor has, or the one that the environment variable GUIDE_EXT_CPU_ISA names.
// Decided once. Throws std::runtime_error if GUIDE_EXT_CPU_ISA names none, or one that the
// processor lacks.
const char* chosen_instruction_set();

}  // namespace guide::cpu
