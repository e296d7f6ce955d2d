// SPDX-License-Identifier: MIT
#include "choose.h"

#include "alignment.h"
#include "sm80/launch.h"

namespace guide::cuda {

namespace {

// ---- Limits that kernels have in common

void add_device(const Device& device, int min_architecture, Obstacles& obstacles) {
  if (!device.obstacle.empty()) {
    obstacles.add(device.obstacle);
  } else if (device.architecture < min_architecture) {
    const auto version = [](int architecture) {
      return std::to_string(architecture / 10) + "." + std::to_string(architecture % 10);
    };
    obstacles.add("the device has compute capability ", version(device.architecture),
                  ": the CUDA kernels need at least ", version(min_architecture));
  }
}

// Positions within a head and the number of thread blocks are 32-bit integers.
void add_large_sizes(const AttentionParams& params, Obstacles& obstacles) {
  constexpr std::int64_t kMaxLength = std::int64_t{1} << 30;
  constexpr std::int64_t kSmallestBlock = 64;  // queries
  constexpr std::int64_t kMaxBlocks = (std::int64_t{1} << 31) - 1;
  const auto add = [&](const char* name, std::int64_t rows) {
    if (rows <= kMaxLength) return;
    obstacles.add(name, " has ", rows, " rows: the compiled CUDA kernel takes at most ",
                  kMaxLength);
  };
  add("query", params.seqlen_q);
  add("key", params.seqlen_k);
  const std::int64_t blocks_of_head = (params.seqlen_q + kSmallestBlock - 1) / kSmallestBlock;
  const double blocks = static_cast<double>(blocks_of_head) *
                        static_cast<double>(params.num_heads) * static_cast<double>(params.batch);
  if (params.batch > kMaxLength || params.num_heads > kMaxLength ||
      blocks > static_cast<double>(kMaxBlocks)) {
    obstacles.add("query has ", blocks_of_head, " blocks of ", kSmallestBlock, " rows in each of ",
                  params.num_heads, " heads and ", params.batch,
                  " batch entries: the compiled CUDA kernel takes at most ", kMaxBlocks, " in all");
  }
}

// ---- sm80

void find_sm80_obstacles(const AttentionParams& params, const Device& device,
                         Obstacles& obstacles) {
  add_device(device, 80, obstacles);
  if (params.element_type != ElementType::kBFloat16 &&
      params.element_type != ElementType::kFloat16) {
    obstacles.add("query is ", name_of(params.element_type),
                  ": the compiled CUDA kernels take float16 and bfloat16");
  }
  add_large_heads(params, "CUDA", sm80::kMaxHeadDim, obstacles);
  add_large_sizes(params, obstacles);
}

// Without attn_bias.
void find_general_obstacles(const AttentionParams& params, const Device& device,
                            Obstacles& obstacles) {
  find_sm80_obstacles(params, device, obstacles);
  if (params.attn_bias != nullptr) obstacles.add();
}

// With up to two channels, and rows that are copied in whole pieces.
void find_fast_obstacles(const AttentionParams& params, const Device& device,
                         Obstacles& obstacles) {
  find_sm80_obstacles(params, device, obstacles);
  if (obstacles.any()) return;
  const auto add_if_scattered = [&](const char* name, const void* tensor, const RowStrides& strides,
                                    std::int64_t row_elements) {
    if (is_aligned(tensor, strides, row_elements)) return;
    obstacles.add(name, " does not have all its rows at multiples of ", kCopyBytes,
                  " bytes: they are gathered element by element; make the head dimension and the "
                  "strides multiples of ",
                  kCopyElements);
  };
  add_if_scattered("query", params.query, params.query_strides, params.head_dim);
  add_if_scattered("key", params.key, params.key_strides, params.head_dim);
  add_if_scattered("value", params.value, params.value_strides, params.head_dim_v);
  if (params.channels > sm80::kMaxFastChannels) {
    const std::int64_t launches = (params.channels + kMaxChannels - 1) / kMaxChannels;
    obstacles.add("influence has ", params.channels, " channels: up to ", sm80::kMaxFastChannels,
                  " have a kernel of their own, this call takes ", launches,
                  launches > 1 ? " launches" : " launch", " of up to ", kMaxChannels, " channels");
  }
  if (params.attn_bias != nullptr) obstacles.add();
}

template <sm80::Extras kExtras>
cudaError_t launch_sm80(const ForwardParams& params, cudaStream_t stream) {
  return sm80::launch(params, kExtras, stream);
}

cudaError_t launch_fast_sm80(const ForwardParams& params, cudaStream_t stream) {
  return sm80::launch(params, static_cast<sm80::Extras>(params.attention.channels), stream);
}

// ---- All kernels

struct Row {
  Choice choice;
  // Adds what keeps a call from the kernel, in words where the kernel would have been faster. Where
  // no row takes a call, the words of all rows are its reasons: a row that shares the limits of a
  // later one stops at those.
  void (*find_obstacles)(const AttentionParams& params, const Device& device, Obstacles& obstacles);
};

// Best first.
constexpr Row kRows[] = {
    {{"cuda/sm80", launch_fast_sm80}, find_fast_obstacles},
    {{"cuda/sm80", launch_sm80<sm80::Extras::kGeneral>}, find_general_obstacles},
    {{"cuda/sm80", launch_sm80<sm80::Extras::kDense>}, find_sm80_obstacles},
};

}  // namespace

Choice choose(const AttentionParams& params, const Device& device, Reasons* reasons) {
  for (const Row& row : kRows) {
    Obstacles obstacles(reasons);
    row.find_obstacles(params, device, obstacles);
    if (!obstacles.any()) return row.choice;
  }
  return {nullptr, nullptr};
}

}  // namespace guide::cuda
