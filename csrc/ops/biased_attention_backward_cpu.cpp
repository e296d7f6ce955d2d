// SPDX-License-Identifier: MIT
// guide::biased_attention_backward on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <exception>
#include <string>
#include <tuple>

#include "attention/cpu/backward.h"
#include "attention/explain.h"
#include "ops/biased_attention_backward.h"
#include "ops/python_errors.h"
#include "ops/workers_cpu.h"

namespace {

using guide::Tensor;

guide::Gradients run(const guide::BackwardArguments& arguments) {
  const guide::AttentionParams call = guide::pack_arguments(arguments.call);
  const bool wants_attn_bias = guide::is_wanted(arguments, guide::kAttnBiasGradient);
  const guide::cpu::Kernel* kernel = guide::cpu::choose_backward(call, wants_attn_bias);
  if (kernel == nullptr) return guide::call_chunked_backward(arguments);
  const guide::Gradients gradients = guide::allocate_gradients(arguments);
  const guide::BackwardParams params = guide::pack_backward(arguments, gradients);
  const guide::cpu::ThreadPool pool = guide::torch_threads();
  try {
    guide::cpu::backward(params, *kernel, pool);
  } catch (const guide::cpu::OutOfMemory& error) {
    guide::check_memory(arguments.call.query, error.bytes);
    guide::cpu::backward(params, *kernel, pool);  // somebody has freed some
  }
  return gradients;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> checked_op(
    const std::optional<Tensor>& grad_out, const std::optional<Tensor>& grad_influence_out,
    const std::optional<Tensor>& grad_lse, const Tensor& query, const Tensor& key,
    const Tensor& value, const std::optional<Tensor>& key_bias,
    const std::optional<Tensor>& influence, const std::optional<Tensor>& attn_bias,
    const std::optional<Tensor>& sinks, const std::optional<Tensor>& q_start, const Tensor& out,
    const Tensor& influence_out, const Tensor& lse, bool is_causal, std::int64_t window_left,
    std::int64_t window_right, std::optional<double> scale, double softcap,
    const std::vector<bool>& wanted) {
  const guide::Arguments call{query,        key,   value,   key_bias,  influence,
                              attn_bias,    sinks, q_start, is_causal, window_left,
                              window_right, scale, softcap};
  const guide::BackwardArguments arguments{grad_out, grad_influence_out, grad_lse, call,
                                           out,      influence_out,      lse,      wanted};
  guide::check_backward_arguments(arguments);
  const guide::Gradients gradients = run(arguments);
  return std::tuple_cat(gradients);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(guide, CPU, library) {
  library.impl("biased_attention_backward", TORCH_BOX(&checked_op));
}

// For `explain_dispatch`, as guide_ext_cpu_choose. `wants_attn_bias`: 0 or 1.
extern "C" __attribute__((visibility("default"))) const char* guide_ext_cpu_choose_backward(
    const guide::CallDescription* call, int wants_attn_bias) noexcept {
  try {
    guide::Reasons reasons;
    const guide::cpu::Kernel* kernel =
        guide::cpu::choose_backward(guide::params_of(*call), wants_attn_bias != 0, &reasons);
    const std::string name = kernel == nullptr ? "" : std::string("cpu/") + kernel->name;
    return guide::text_of_choice(name, reasons);
  } catch (const std::exception&) {
    return nullptr;
  }
}
