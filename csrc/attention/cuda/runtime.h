// SPDX-License-Identifier: MIT
// CUDA's own declarations and one way to launch a kernel. With GUIDE_CUDA_EMULATED both come from
// the emulator of tests/cuda_emulator, which runs the same kernels on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef GUIDE_CUDA_EMULATED
#include "cuda_emulator.h"
#else
#include <cuda_runtime.h>
#endif

#define GUIDE_DEVICE __device__ __forceinline__

// With GUIDE_CUDA_EMULATED_PTX the kernels are declared only: their bodies are those that nvcc
// emitted as PTX, translated and linked in.
#ifdef GUIDE_CUDA_EMULATED_PTX
#define GUIDE_KERNEL_BODIES 0
#else
#define GUIDE_KERNEL_BODIES 1
#endif

namespace guide::cuda {

// Runs kKernel(params) on a grid. Returns what CUDA says of the launch; does not wait for its end.
template <auto kKernel, class Params>
cudaError_t launch_kernel(dim3 grid, unsigned threads, std::size_t shared_bytes,
                          cudaStream_t stream, Params params) {
#ifdef GUIDE_CUDA_EMULATED
  (void)stream;
  return cuda_emulator::launch<kKernel>(grid, threads, shared_bytes, params);
#else
  const void* kernel = reinterpret_cast<const void*>(kKernel);
  // More than 48 KiB of shared memory must be asked for, on every device anew.
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (error != cudaSuccess) return error;
  void* arguments[] = {&params};
  return cudaLaunchKernel(kernel, grid, dim3(threads), arguments, shared_bytes, stream);
#endif
}

}  // namespace guide::cuda
