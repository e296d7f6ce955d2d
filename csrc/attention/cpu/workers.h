// SPDX-License-Identifier: MIT
// The threads and the scratch memory of a call.
#pragma once

#include <algorithm>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>

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
  explicit OutOfMemory(std::int64_t missing_bytes)
      : std::runtime_error("biased_attention: no memory for " + std::to_string(missing_bytes) +
                           " bytes of scratch space; use fewer threads or smaller batches"),
        bytes(missing_bytes) {}
  std::int64_t bytes;
};

// Cache-line aligned floats, the memory of a whole call. Allocated before any thread starts, so
// that no allocation can fail inside a parallel region. What a small call needs is part of the
// object: on the stack it costs nothing.
class Arena {
 public:
  explicit Arena(std::int64_t num_floats) {
    if (num_floats <= kFewFloats) return;
    const std::size_t bytes = static_cast<std::size_t>(num_floats) * sizeof(float);
    memory_ = static_cast<float*>(::operator new(bytes, kAlignment, std::nothrow));
    if (memory_ == nullptr) throw OutOfMemory(static_cast<std::int64_t>(bytes));
  }
  ~Arena() {
    if (memory_ != few_floats_) ::operator delete(memory_, kAlignment);
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  float* at(std::int64_t offset) const { return memory_ + offset; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  static constexpr std::int64_t kFewFloats = 2048;
  alignas(64) float few_floats_[kFewFloats];
  float* memory_ = few_floats_;
};

// Threads beyond the work are not asked for: waking one costs more than a small call.
inline std::int64_t workers_for(double useful, std::int64_t tasks, std::int64_t threads) {
  std::int64_t workers = std::min(threads, tasks);
  if (useful < static_cast<double>(workers)) workers = static_cast<std::int64_t>(useful);
  return std::max<std::int64_t>(workers, 1);
}

// Products of numbers that pay for one more worker.
constexpr double kProductsPerWorker = 1e6;

}  // namespace guide::cpu
