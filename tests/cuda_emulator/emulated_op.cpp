// SPDX-License-Identifier: MIT
// guide::biased_attention on CPU tensors by the CUDA kernels, run by the emulator: the checks, the
// choice of the kernel and its launch are the product's. The schema comes from Python.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <stdexcept>
#include <string>

#include "attention/cuda/forward.h"
#include "attention/explain.h"
#include "ops/biased_attention.h"

extern "C" const char* cuda_emulator_take_reports();

namespace {

using guide::Tensor;

// Kernels may touch the elements of a tensor, and what its strides leave between them.
void add_range(const char* name, const Tensor& tensor, bool is_writable) {
  std::int64_t first = 0, last = 0;
  for (std::int64_t dim = 0; dim < tensor.dim(); ++dim) {
    if (tensor.size(dim) == 0) return;
    const std::int64_t span = (tensor.size(dim) - 1) * tensor.stride(dim);
    (span < 0 ? first : last) += span;
  }
  const std::int64_t element_size = static_cast<std::int64_t>(tensor.element_size());
  const char* data = static_cast<const char*>(tensor.const_data_ptr());
  cuda_emulator::add_global_range(data + first * element_size,
                                  static_cast<std::size_t>((last - first + 1) * element_size), name,
                                  is_writable);
}

void add_ranges(const guide::Arguments& arguments, const guide::Results& results) {
  const auto add_optional = [](const char* name, const std::optional<Tensor>& tensor) {
    if (tensor) add_range(name, *tensor, false);
  };
  add_range("query", arguments.query, false);
  add_range("key", arguments.key, false);
  add_range("value", arguments.value, false);
  add_optional("key_bias", arguments.key_bias);
  add_optional("influence", arguments.influence);
  add_optional("attn_bias", arguments.attn_bias);
  add_optional("sinks", arguments.sinks);
  add_optional("q_start", arguments.q_start);
  add_range("out", results.out, true);
  add_range("influence_out", results.influence_out, true);
  add_range("lse", results.lse, true);
}

// Device 0 runs every kernel, device 1 none: it is older than all of them.
const guide::cuda::Device kDevices[] = {{80, ""}, {75, ""}};

guide::Results run(const guide::Arguments& arguments) {
  guide::AttentionParams params = guide::pack_arguments(arguments);
  if (guide::cuda::choose(params, kDevices[0]).kernel == nullptr) {
    return guide::call_chunked(arguments);
  }
  const guide::Results results = guide::allocate_results(arguments);
  guide::pack_results(results, params);
  cuda_emulator_take_reports();
  add_ranges(arguments, results);
  const cudaError_t error = guide::cuda::forward(params, kDevices[0], nullptr);
  cuda_emulator::clear_global_ranges();
  const std::string reports = cuda_emulator_take_reports();
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
  if (!reports.empty()) throw std::runtime_error("cuda_emulator:\n" + reports);
  return results;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(GUIDE_EMULATED_NAMESPACE, CPU, library) {
  library.impl("biased_attention", TORCH_BOX(&guide::checked_op<run>));
}

// As libguide_ext_cuda has it, of the devices above.
extern "C" __attribute__((visibility("default"))) const char* guide_ext_cuda_choose(
    const guide::CallDescription* call, int device) {
  guide::Reasons reasons;
  const guide::cuda::Choice choice =
      guide::cuda::choose(guide::params_of(*call), kDevices[device], &reasons);
  return guide::text_of_choice(choice.kernel == nullptr ? "" : choice.kernel, reasons);
}
