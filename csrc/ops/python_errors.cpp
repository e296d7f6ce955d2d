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
  std::int32_t device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  // Not through the dispatcher, whose lists of numbers take longer than the memory.
  AtenTensorHandle tensor;
  if (aoti_torch_empty_strided(static_cast<std::int64_t>(sizes.size()), sizes.data(),
                               strides.data(), to<std::int32_t>(from(type)), device_type,
                               device_index, &tensor) == TORCH_SUCCESS) {
    return Tensor(tensor);
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
