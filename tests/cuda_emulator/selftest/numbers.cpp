// SPDX-License-Identifier: MIT
// Conversions and functions, on arrays of `option` numbers.
#include <cfenv>

#include "selftest.h"

namespace selftest {
namespace {

using guide::cuda::BFloat16;
using guide::cuda::Float16;

constexpr unsigned kThreads = 256;

// Output: each number packed beside the one after it; beside itself for the last one.
template <class Element>
__global__ void pack(const __grid_constant__ Arguments arguments) {
  const auto count = static_cast<unsigned>(arguments.option);
  for (unsigned i = threadIdx.x; i < count; i += kThreads) {
    const float low = input<float>(arguments, i);
    const float high = input<float>(arguments, min(i + 1, count - 1));
    set_output(arguments, i, ptx::pack<Element>(low, high));
  }
}

constexpr auto pack_bfloat16 = pack<BFloat16>;
constexpr auto pack_float16 = pack<Float16>;

__global__ void unpack_float16(const __grid_constant__ Arguments arguments) {
  const auto count = static_cast<unsigned>(arguments.option);
  for (unsigned i = threadIdx.x; i < count; i += kThreads) {
    set_output(arguments, i, ptx::from_float16(input<std::uint16_t>(arguments, i)));
  }
}

__global__ void powers(const __grid_constant__ Arguments arguments) {
  const auto count = static_cast<unsigned>(arguments.option);
  for (unsigned i = threadIdx.x; i < count; i += kThreads) {
    set_output(arguments, i, ptx::exp2(input<float>(arguments, i)));
  }
}

// Output: the larger of each pair of numbers.
__global__ void maxima(const __grid_constant__ Arguments arguments) {
  const auto count = static_cast<unsigned>(arguments.option);
  for (unsigned i = threadIdx.x; i < count; i += kThreads) {
    set_output(arguments, i,
               ptx::max_or_nan(input<float>(arguments, 2 * i), input<float>(arguments, 2 * i + 1)));
  }
}

// CUDA's own functions, as kernels call them.
__global__ void functions(const __grid_constant__ Arguments arguments) {
  const float x = input<float>(arguments, 0);
  const float y = input<float>(arguments, 1);
  const float results[] = {fmaf(x, y, 1.0f),
                           fmaxf(x, y),
                           fminf(x, y),
                           log2f(y),
                           tanhf(x),
                           max(x, y),
                           min(x, y),
                           rsqrtf(y),
                           max(x, __uint_as_float(0x7fffffffu)),
                           static_cast<float>(max(1, 2u)),
                           static_cast<float>(min(std::int64_t{-1}, 2)),
                           __int_as_float(__float_as_int(x))};
  for (unsigned i = 0; i < sizeof(results) / sizeof(float); ++i) {
    set_output(arguments, i, results[i]);
  }
}

__global__ void add(const __grid_constant__ Arguments arguments) {
  set_output(arguments, 0, input<float>(arguments, 0) + input<float>(arguments, 1));
}

}  // namespace

SELFTEST_RUN(pack_bfloat16, dim3(1), kThreads, 0)
SELFTEST_RUN(pack_float16, dim3(1), kThreads, 0)
SELFTEST_RUN(unpack_float16, dim3(1), kThreads, 0)
SELFTEST_RUN(powers, dim3(1), kThreads, 0)
SELFTEST_RUN(maxima, dim3(1), kThreads, 0)
SELFTEST_RUN(functions, dim3(1), 1, 0)
SELFTEST_RUN(add, dim3(1), 1, 0)

// Launches `add` while the caller rounds upwards; the result is -1 if he does not afterwards.
SELFTEST_EXPORT int run_add_rounding_upwards(const void* input, void* output, int option) {
  const int before = std::fegetround();
  std::fesetround(FE_UPWARD);
  const int error = run_add(input, output, option);
  const bool is_restored = std::fegetround() == FE_UPWARD;
  std::fesetround(before);
  return is_restored ? error : -1;
}

}  // namespace selftest
