// SPDX-License-Identifier: MIT
// Runs a probe by name. nvcc makes of this a library that runs on a GPU, g++ with
// GUIDE_CUDA_EMULATED one that runs on the emulator; ../cuda/test_probes.py gives both the same
// bytes. Where they differ, the emulator is wrong.
#include <cstring>
#include <vector>

#include "kernels.cuh"

#define GUIDE_EXPORT extern "C" __attribute__((visibility("default")))

namespace guide::cuda::probes {

struct Probe {
  const char* name;
  cudaError_t (*launch)(unsigned items, Buffers buffers);
  unsigned in_bytes;  // of one item
  unsigned out_bytes;
};

constexpr std::size_t kSharedBytes = 4096;

template <auto kKernel>
cudaError_t launch(unsigned items, Buffers buffers) {
  return launch_kernel<kKernel>(dim3(items), kLanes, kSharedBytes, nullptr, buffers);
}

constexpr unsigned kMmaBytes = 2 * (16 * 16 + 16 * 8) + 4 * 16 * 8;
const Probe kProbes[] = {
    {"load_matrices", launch<load_matrices<false>>, 16 * 64 + 4 * kLanes, 16 * kLanes},
    {"load_matrices_transposed", launch<load_matrices<true>>, 16 * 64 + 4 * kLanes, 16 * kLanes},
    {"mma_bfloat16", launch<mma<BFloat16>>, kMmaBytes, 4 * 16 * 8},
    {"mma_float16", launch<mma<Float16>>, kMmaBytes, 4 * 16 * 8},
    {"copy_async", launch<copy_async>, 20 * kLanes, 16 * kLanes},
    {"copy_async_groups", launch<copy_async_groups>, 3 * 16 * kLanes, 3 * 16 * kLanes},
    {"shared_words", launch<shared_words>, 8 * kLanes, 3 * 4 * kLanes},
    {"shared_chunks", launch<shared_chunks>, 20 * kLanes, 16 * kLanes},
    {"shuffles", launch<shuffles>, 8 * kLanes, 6 * 4 * kLanes},
    {"votes", launch<votes>, 4 * kLanes, 3 * 4 * kLanes},
    {"pack_bfloat16", launch<pack<BFloat16>>, 8 * kLanes, 4 * kLanes},
    {"pack_float16", launch<pack<Float16>>, 8 * kLanes, 4 * kLanes},
    {"from_float16", launch<from_float16>, 2 * kLanes, 4 * kLanes},
    {"from_bfloat16", launch<from_bfloat16>, 2 * kLanes, 4 * kLanes},
    {"exp2", launch<exp2>, 4 * kLanes, 4 * kLanes},
    {"max_or_nan", launch<max_or_nan>, 8 * kLanes, 4 * kLanes},
};

// Bytes of the device: memory of the GPU, or of this process under emulation. The first error of
// its life is kept.
class DeviceBytes {
 public:
#ifdef GUIDE_CUDA_EMULATED
  DeviceBytes(std::size_t bytes, bool is_writable)
      : bytes_(bytes), storage_(bytes / sizeof(uint4) + 1) {
    cuda_emulator::add_global_range(storage_.data(), bytes, is_writable ? "out" : "in",
                                    is_writable);
  }
  ~DeviceBytes() { cuda_emulator::clear_global_ranges(); }
  std::uint8_t* get() { return reinterpret_cast<std::uint8_t*>(storage_.data()); }
  void set(const void* source) { std::memcpy(get(), source, bytes_); }
  void copy_to(void* target) { std::memcpy(target, get(), bytes_); }
#else
  DeviceBytes(std::size_t bytes, bool) : bytes_(bytes) { keep(cudaMalloc(&pointer_, bytes)); }
  ~DeviceBytes() { cudaFree(pointer_); }
  std::uint8_t* get() { return static_cast<std::uint8_t*>(pointer_); }
  void set(const void* source) {
    if (error == cudaSuccess) keep(cudaMemcpy(pointer_, source, bytes_, cudaMemcpyHostToDevice));
  }
  // Waits for the kernel, and reports what went wrong in it.
  void copy_to(void* target) {
    if (error == cudaSuccess) keep(cudaMemcpy(target, pointer_, bytes_, cudaMemcpyDeviceToHost));
  }
#endif
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;

  void keep(cudaError_t what) {
    if (error == cudaSuccess) error = what;
  }

  cudaError_t error = cudaSuccess;

 private:
  std::size_t bytes_;
#ifdef GUIDE_CUDA_EMULATED
  std::vector<uint4> storage_;
#else
  void* pointer_ = nullptr;
#endif
};

}  // namespace guide::cuda::probes

// What run_probe returns besides errors of CUDA, which are positive.
constexpr int kUnknownProbe = -1;
constexpr int kWrongSizes = -2;

// Fills `out` with what a probe makes of `in`, whole items both.
GUIDE_EXPORT int run_probe(const char* name, const void* in, std::size_t in_bytes, void* out,
                           std::size_t out_bytes) {
  using namespace guide::cuda::probes;
  for (const Probe& probe : kProbes) {
    if (std::strcmp(probe.name, name) != 0) continue;
    const std::size_t items = in_bytes / probe.in_bytes;
    if (items == 0 || items * probe.in_bytes != in_bytes || items * probe.out_bytes != out_bytes) {
      return kWrongSizes;
    }
    DeviceBytes source(in_bytes, false), target(out_bytes, true);
    source.set(in);
    if (source.error != cudaSuccess) return source.error;
    if (target.error != cudaSuccess) return target.error;
    const Buffers buffers{source.get(), target.get(), probe.in_bytes, probe.out_bytes};
    target.keep(probe.launch(static_cast<unsigned>(items), buffers));
    target.copy_to(out);
    return target.error;
  }
  return kUnknownProbe;
}

// The names of the probes, one by one; null behind the last.
GUIDE_EXPORT const char* probe_name(std::size_t index) {
  using guide::cuda::probes::kProbes;
  return index < sizeof(kProbes) / sizeof(kProbes[0]) ? kProbes[index].name : nullptr;
}
