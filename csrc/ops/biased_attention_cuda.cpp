// SPDX-License-Identifier: MIT
// guide::biased_attention on CUDA devices.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention/cuda/forward.h"
#include "attention/explain.h"
#include "ops/biased_attention.h"

namespace {

std::string text_of(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + ", " + cudaGetErrorString(error);
}

using guide::cuda::Device;

Device read_device(int index) {
  int major = 0, minor = 0;
  cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index);
  }
  if (error == cudaSuccess) return {major * 10 + minor, ""};
  // It is left in the runtime's last error otherwise, for somebody else to trip over.
  (void)cudaGetLastError();
  return {0, "the CUDA runtime of this build (" + std::to_string(CUDART_VERSION / 1000) + "." +
                 std::to_string(CUDART_VERSION / 10 % 100) +
                 ") cannot use the device: " + text_of(error) + "; update the driver"};
}

std::vector<Device> read_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) (void)cudaGetLastError();
  std::vector<Device> devices;
  for (int i = 0; i < count; ++i) devices.push_back(read_device(i));
  return devices;
}

// Asked once for all devices.
const Device& device_at(int index) {
  static const std::vector<Device> devices = read_devices();
  static const Device unseen{0, "the CUDA runtime does not see the device"};
  const auto position = static_cast<std::size_t>(index);
  return position < devices.size() ? devices[position] : unseen;
}

guide::Results run(const guide::Arguments& arguments) {
  const int index = arguments.query.get_device_index();
  const Device& device = device_at(index);
  guide::AttentionParams params = guide::pack_arguments(arguments);
  if (guide::cuda::choose(params, device).kernel == nullptr) {
    return guide::call_chunked(arguments);
  }
  const torch::stable::accelerator::DeviceGuard guard(index);
  const guide::Results results = guide::allocate_results(arguments);
  guide::pack_results(results, params);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream));
  const cudaError_t error = guide::cuda::forward(params, device, static_cast<cudaStream_t>(stream));
  if (error != cudaSuccess) {
    throw std::runtime_error("biased_attention: cannot launch the CUDA kernel: " + text_of(error));
  }
  return results;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(guide, CUDA, library) {
  library.impl("biased_attention", TORCH_BOX(&guide::checked_op<run>));
}

// For `explain_dispatch`: the choice of a kernel as text_of_choice() writes it. Null if there is no
// memory for the text.
extern "C" __attribute__((visibility("default"))) const char* guide_ext_cuda_choose(
    const guide::CallDescription* call, int device) noexcept {
  try {
    guide::Reasons reasons;
    const guide::cuda::Choice choice =
        guide::cuda::choose(guide::params_of(*call), device_at(device), &reasons);
    return guide::text_of_choice(choice.kernel == nullptr ? "" : choice.kernel, reasons);
  } catch (const std::exception&) {
    return nullptr;
  }
}
