// SPDX-License-Identifier: MIT
// Prints which element each thread of a warp holds, as the traits of CuTe say it: a name, then the
// indices of all values of lane 0, of lane 1, and so on. Compiled on the host against the headers
// of the nvidia-cutlass wheel; no part of the product.
#include <cstdio>
#include <cute/atom/copy_traits_sm75.hpp>
#include <cute/atom/mma_traits_sm80.hpp>

namespace {

template <class Layout>
void print(const char* type, const char* name, int values, const Layout& layout, int unit = 1) {
  std::printf("%s.%s", type, name);
  for (int lane = 0; lane < 32; ++lane) {
    for (int value = 0; value < values; ++value) {
      std::printf(" %d", static_cast<int>(layout(lane, value * unit)) / unit);
    }
  }
  std::printf("\n");
}

// Indices are row + 16 * k of a, column + 8 * k of b, row + 16 * column of the sums.
template <class Operation>
void print_product(const char* element) {
  using Traits = cute::MMA_Traits<Operation>;
  print(element, "a", 8, typename Traits::ALayout{});
  print(element, "b", 4, typename Traits::BLayout{});
  print(element, "sums", 4, typename Traits::CLayout{});
}

// The same indices for what lies in the rows whose addresses the lanes give, and for what the lanes
// get. CuTe counts bits; an element has 16.
template <class Operation>
void print_load(const char* load) {
  using Traits = cute::Copy_Traits<Operation>;
  print(load, "rows", 8, typename Traits::SrcLayout{}, 16);
  print(load, "registers", 8, typename Traits::DstLayout{}, 16);
}

}  // namespace

int main() {
  print_product<cute::SM80_16x8x16_F32BF16BF16F32_TN>("bfloat16");
  print_product<cute::SM80_16x8x16_F32F16F16F32_TN>("float16");
  print_load<cute::SM75_U32x4_LDSM_N>("load_plain");
  print_load<cute::SM75_U16x8_LDSM_T>("load_transposed");
}
