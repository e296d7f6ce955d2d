// SPDX-License-Identifier: MIT
// Torch's own threads, for the kernels of the CPU.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "attention/cpu/workers.h"

namespace guide {

inline cpu::ThreadPool torch_threads() {
  const auto run = [](std::int64_t workers, void (*body)(void* context, std::int64_t worker),
                      void* context) {
    torch::stable::parallel_for(0, workers, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t worker = begin; worker < end; ++worker) body(context, worker);
    });
  };
  return {torch::stable::get_num_threads(), run};
}

}  // namespace guide
