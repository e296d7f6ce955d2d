// SPDX-License-Identifier: MIT
// guide::biased_attention on CUDA devices.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <stdexcept>
#include <string>

#include "attention/cuda/forward.h"
#include "ops/biased_attention.h"

namespace {

std::string text_of(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + ", " + cudaGetErrorString(error);
}

// Why the kernels cannot run on a device; empty if they can.
std::string device_obstacle(int device) {
  int major = 0, minor = 0;
  cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  }
  if (error != cudaSuccess) {
    // It is left in the runtime's last error otherwise, for somebody else to trip over.
    (void)cudaGetLastError();
    return "the CUDA runtime of this build (" + std::to_string(CUDART_VERSION / 1000) + "." +
           std::to_string(CUDART_VERSION / 10 % 100) +
           ") cannot use the device: " + text_of(error) + "; update the driver";
  }
  const int architecture = major * 10 + minor;
  if (architecture >= guide::cuda::kMinArchitecture) return "";
  return "the device has compute capability " + std::to_string(major) + "." +
         std::to_string(minor) + ": the CUDA kernels need at least " +
         std::to_string(guide::cuda::kMinArchitecture / 10) + "." +
         std::to_string(guide::cuda::kMinArchitecture % 10);
}

// The same, asked once for each device.
const std::string& cached_device_obstacle(int device) {
  constexpr int kMaxDevices = 64;
  struct Cache {
    std::string obstacles[kMaxDevices];
    Cache() {
      int count = 0;
      if (cudaGetDeviceCount(&count) != cudaSuccess) (void)cudaGetLastError();
      for (int i = 0; i < kMaxDevices; ++i) {
        obstacles[i] = i < count ? device_obstacle(i) : "the CUDA runtime does not see the device";
      }
    }
  };
  static const Cache cache;
  return cache.obstacles[device < kMaxDevices ? device : kMaxDevices - 1];
}

guide::Results run(const guide::Arguments& arguments) {
  const int device = arguments.query.get_device_index();
  if (!guide::cuda::has_kernel(guide::call_shape(arguments)) ||
      !cached_device_obstacle(device).empty()) {
    return guide::call_chunked(arguments);
  }
  const torch::stable::accelerator::DeviceGuard guard(device);
  const guide::Results results = guide::allocate_results(arguments);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  const cudaError_t error = guide::cuda::forward(guide::pack_params(arguments, results),
                                                 static_cast<cudaStream_t>(stream));
  if (error != cudaSuccess) {
    throw std::runtime_error("biased_attention: cannot launch the CUDA kernel: " + text_of(error));
  }
  return results;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(guide, CUDA, library) {
  library.impl("biased_attention", TORCH_BOX(&guide::checked_op<run>));
}

// For `explain_dispatch` and `guide-ext doctor`: why the kernels cannot run on a device; null if
// they can.
extern "C" __attribute__((visibility("default"))) const char* guide_ext_cuda_obstacle(
    int device) noexcept {
  const std::string& obstacle = cached_device_obstacle(device);
  return obstacle.empty() ? nullptr : obstacle.c_str();
}
