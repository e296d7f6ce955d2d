// SPDX-License-Identifier: MIT
// What this processor can do at most: multiply-adds that never leave registers, and streams that
// never stay in a cache. Compiled where it runs, with -O3 -march=native, by ceilings.py.

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

// The widest vector that the target has, and as many sums as its registers hold beside operands.
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kSums = 24;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kSums = 12;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kSums = 24;
#else
constexpr int kVectorBytes = 16, kSums = 12;
#endif
constexpr int kLanes = kVectorBytes / 4;
constexpr int kRepeats = 5;  // the best of so many

typedef float Vector __attribute__((vector_size(kVectorBytes)));

// The compiler must neither know these values nor drop what was made of them.
volatile float unknown_factor = 0.999F;
volatile float unknown_addend = 0.001F;
volatile float sink;

double seconds_of(int threads, const std::function<void(int)>& work) {
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(work, thread);
  work(0);
  for (auto& other : others) other.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// The highest rate, of `amount` that all threads do together.
double best_rate(int threads, double amount, const std::function<void(int)>& work) {
  double best = 0.0;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const double rate = amount / seconds_of(threads, work);
    best = rate > best ? rate : best;
  }
  return best;
}

void multiply_add(int64_t steps) {
  const Vector factor = Vector{} + unknown_factor;
  const Vector addend = Vector{} + unknown_addend;
  Vector sums[kSums];
  for (auto& sum : sums) sum = addend;
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) sums[i] = sums[i] * factor + addend;
  }
  Vector total{};
  for (const auto& sum : sums) total += sum;
  sink = total[0];
}

#if defined(__AVX512BF16__)
void dot_bf16(int64_t steps) {
  const auto factor = reinterpret_cast<__m512bh>(_mm512_set1_ps(unknown_factor));
  __m512 sums[kSums];
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], factor, factor);
  }
  __m512 total = _mm512_setzero_ps();
  for (const auto& sum : sums) total = _mm512_add_ps(total, sum);
  sink = total[0];
}
#endif

void read_all(const char* begin, int64_t bytes) {
  constexpr int kStreams = 4, kAhead = 8192;
  constexpr int64_t kStep = int64_t{kStreams} * kVectorBytes;
  Vector sums[kStreams] = {};
  for (int64_t at = 0; at + kStep <= bytes; at += kStep) {
    for (int64_t line = 0; line < kStep; line += 64) {
      __builtin_prefetch(begin + at + kAhead + line, 0, 2);  // into the second level
    }
    for (int i = 0; i < kStreams; ++i) {
      sums[i] += *reinterpret_cast<const Vector*>(begin + at + i * kVectorBytes);
    }
  }
  sink = (sums[0] + sums[1] + sums[2] + sums[3])[0];
}

}  // namespace

extern "C" {

// GFLOP/s of fp32 multiply-adds; a million steps take some 10 ms.
double fma_gflops(int threads, int64_t steps) {
  const double flop = 2.0 * kLanes * kSums * static_cast<double>(steps) * threads;
  return best_rate(threads, flop, [&](int) { multiply_add(steps); }) / 1e9;
}

// GFLOP/s of the bf16 dot-product instruction; 0 where there is none.
double bf16_gflops(int threads, int64_t steps) {
#if defined(__AVX512BF16__)
  const double flop = 4.0 * kLanes * kSums * static_cast<double>(steps) * threads;
  return best_rate(threads, flop, [&](int) { dot_bf16(steps); }) / 1e9;
#else
  return 0.0 * (threads + steps);
#endif
}

// GB/s read from, or (bytes read and bytes written) copied between, blocks of memory.
double read_gbytes(int threads, const char* source, int64_t bytes) {
  const int64_t share = bytes / threads / 4096 * 4096;
  return best_rate(threads, static_cast<double>(share * threads),
                   [&](int thread) { read_all(source + thread * share, share); }) /
         1e9;
}

double copy_gbytes(int threads, const char* source, char* target, int64_t bytes) {
  const int64_t share = bytes / threads / 4096 * 4096;
  return best_rate(threads, 2.0 * static_cast<double>(share * threads),
                   [&](int thread) {
                     std::memcpy(target + thread * share, source + thread * share, share);
                   }) /
         1e9;
}

}  // extern "C"
