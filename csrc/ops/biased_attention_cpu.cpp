// SPDX-License-Identifier: MIT
// guide::biased_attention on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <exception>

#include "attention/cpu/forward.h"
#include "ops/biased_attention.h"

namespace {

using guide::Tensor;

// Beyond this the packed queries and keys of a task outgrow every cache.
constexpr std::int64_t kMaxHeadDim = 512;

void run_workers(std::int64_t workers, void (*body)(void* context, std::int64_t worker),
                 void* context) {
  torch::stable::parallel_for(0, workers, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t worker = begin; worker < end; ++worker) body(context, worker);
  });
}

bool has_kernel(const guide::Arguments& arguments) {
  return arguments.query.scalar_type() != torch::headeronly::ScalarType::Double &&
         arguments.query.size(3) <= kMaxHeadDim && arguments.value.size(3) <= kMaxHeadDim;
}

std::tuple<Tensor, Tensor, Tensor> biased_attention(
    const Tensor& query, const Tensor& key, const Tensor& value,
    const std::optional<Tensor>& key_bias, const std::optional<Tensor>& influence,
    const std::optional<Tensor>& attn_bias, const std::optional<Tensor>& sinks,
    const std::optional<Tensor>& q_start, bool is_causal, std::int64_t window_left,
    std::int64_t window_right, std::optional<double> scale, double softcap) {
  const guide::Arguments arguments{query,        key,   value,   key_bias,  influence,
                                   attn_bias,    sinks, q_start, is_causal, window_left,
                                   window_right, scale, softcap};
  guide::check_arguments(arguments);
  if (!has_kernel(arguments)) {
    const guide::Results results = guide::call_chunked(arguments);
    return {results.out, results.influence_out, results.lse};
  }
  const guide::Results results = guide::allocate_results(arguments);
  const guide::cpu::ThreadPool pool{torch::stable::get_num_threads(), run_workers};
  guide::cpu::forward(guide::pack_params(arguments, results), pool);
  return {results.out, results.influence_out, results.lse};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(guide, CPU, library) {
  library.impl("biased_attention", TORCH_BOX(&biased_attention));
}

// For `explain_dispatch` and `guide-ext doctor`. Null where GUIDE_EXT_CPU_ISA names an instruction
// set that cannot be used: the first call of the op says why.
extern "C" __attribute__((visibility("default"))) const char*
guide_ext_cpu_instruction_set() noexcept {
  try {
    return guide::cpu::chosen_instruction_set();
  } catch (const std::exception&) {
    return nullptr;
  }
}
