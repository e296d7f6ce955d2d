// SPDX-License-Identifier: MIT
#include "ops/python_errors.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/stableivalue_conversions.h>

#include <array>
#include <stdexcept>
#include <string>

namespace {

// Functions of csrc/error_keeper.cpp; null in a process without Python. Set once, while the library
// is loaded.
void (*begin_call)() = nullptr;
void (*end_call)(bool has_failed) = nullptr;  // throws what Python raised

}  // namespace

namespace guide {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void call_python(const char* name, StableIValue* stack) {
  if (begin_call != nullptr) begin_call();
  const bool has_failed =
      torch_call_dispatcher(name, "", stack, TORCH_ABI_VERSION) != TORCH_SUCCESS;
  if (end_call != nullptr) end_call(has_failed);
  if (!has_failed) return;
  throw std::runtime_error(
      std::string("biased_attention: ") + name +
      " failed, and the reason is lost: it needs Python with guide_ext imported, and guide_ext._C");
}

void check_memory(const Tensor& like, std::int64_t bytes) {
  static constexpr std::int64_t kOne = 1;
  const auto memory = new_empty_strided(like, {&bytes, 1}, {&kOne, 1}, ScalarType::Byte);
}

Tensor new_empty_strided(const Tensor& like, IntHeaderOnlyArrayRef sizes,
                         IntHeaderOnlyArrayRef strides, ScalarType type) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  // torch::stable has no function for this operator. A call takes ownership of its stack.
  std::array<StableIValue, 7> stack{from(like),         from(sizes),
                                    from(strides),      from(std::optional<ScalarType>(type)),
                                    from(std::nullopt), from(std::nullopt),
                                    from(std::nullopt)};
  if (torch_call_dispatcher("aten::new_empty_strided", "", stack.data(), TORCH_ABI_VERSION) ==
      TORCH_SUCCESS) {
    return to<Tensor>(stack[0]);
  }
  // Why not, Python can say: there it is asked once more.
  std::array<StableIValue, 4> again{from(like), from(sizes), from(strides), from(type)};
  call_python("guide::new_empty_strided", again.data());
  return to<Tensor>(again[0]);
}

}  // namespace guide

extern "C" __attribute__((visibility("default"))) void guide_ext_keep_errors(
    void (*begin)(), void (*end)(bool has_failed)) noexcept {
  begin_call = begin;
  end_call = end;
}
