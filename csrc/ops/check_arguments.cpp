// SPDX-License-Identifier: MIT
// The argument errors of guide::biased_attention, in the order and words of guide_ext/op/checks.py.
#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention/score_mod.h"
#include "ops/biased_attention.h"
#include "ops/biased_attention_backward.h"

namespace guide {

namespace {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;

[[noreturn]] void fail(const std::string& text) {
  throw std::invalid_argument("biased_attention: " + text);
}

std::string text_of(std::int64_t number) { return std::to_string(number); }

std::string text_of(double number) {
  if (std::isnan(number)) return "nan";  // printf would add the sign
  char text[32];
  std::snprintf(text, sizeof(text), "%g", number);
  return text;
}

std::string text_of(IntHeaderOnlyArrayRef numbers) {
  std::string text = "[";
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(numbers[i]);
  }
  return text + "]";
}

// The name that Python gives the type.
std::string text_of(ScalarType type) {
  switch (type) {
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    default:
      return torch::headeronly::toString(type);
  }
}

std::string text_of(const torch::stable::Device& device) {
  using torch::headeronly::DeviceType;
  std::string text;
  switch (device.type()) {
    case DeviceType::CPU:
      text = "cpu";
      break;
    case DeviceType::CUDA:
      text = "cuda";
      break;
    case DeviceType::Meta:
      text = "meta";
      break;
    case DeviceType::MPS:
      text = "mps";
      break;
    case DeviceType::XPU:
      text = "xpu";
      break;
    default:
      text = "device type " + std::to_string(static_cast<int>(device.type()));
  }
  return device.has_index() ? text + ":" + std::to_string(device.index()) : text;
}

bool is_floating(ScalarType type) {
  return type == ScalarType::Half || type == ScalarType::BFloat16 || type == ScalarType::Float ||
         type == ScalarType::Double;
}

bool broadcasts(std::int64_t size, std::int64_t full) { return size == 1 || size == full; }

void check_device(const char* name, const Tensor& tensor, const Tensor& query) {
  if (tensor.device() != query.device()) {
    fail(std::string(name) + " must be on the device of query, " + text_of(query.device()) +
         ", got " + text_of(tensor.device()));
  }
}

// A float64 query is computed in float64 throughout, so its companions may be exact too.
void check_float32(const char* name, const Tensor& tensor, const Tensor& query) {
  const ScalarType type = tensor.scalar_type();
  const bool allows_float64 = query.scalar_type() == ScalarType::Double;
  if (type == ScalarType::Float || (allows_float64 && type == ScalarType::Double)) return;
  fail(std::string(name) + " must be float32" + (allows_float64 ? " or float64" : "") + ", got " +
       text_of(type) + "; call .float()");
}

struct Operand {
  const char* name;
  const Tensor& tensor;
  const char* meaning;
};

void check_operands(const Tensor& query, const Tensor& key, const Tensor& value) {
  const Operand operands[] = {
      {"query", query, "[batch, num_heads, seqlen_q, head_dim]"},
      {"key", key, "[batch, num_kv_heads, seqlen_k, head_dim]"},
      {"value", value, "[batch, num_kv_heads, seqlen_k, head_dim_v]"},
  };
  for (const auto& [name, tensor, meaning] : operands) {
    if (tensor.dim() != 4) {
      fail(std::string(name) + " must be " + meaning + ", got shape " + text_of(tensor.sizes()));
    }
  }
  if (!is_floating(query.scalar_type())) {
    fail("query must be float16, bfloat16, float32 or float64, got " +
         text_of(query.scalar_type()));
  }
  for (const auto& [name, tensor, meaning] : {operands[1], operands[2]}) {
    if (tensor.scalar_type() != query.scalar_type()) {
      fail(std::string(name) + " must have the dtype of query, " + text_of(query.scalar_type()) +
           ", got " + text_of(tensor.scalar_type()));
    }
    check_device(name, tensor, query);
  }
  const std::int64_t batch = query.size(0);
  const std::int64_t num_heads = query.size(1);
  const std::int64_t head_dim = query.size(3);
  const std::int64_t num_kv_heads = key.size(1);
  const std::int64_t seqlen_k = key.size(2);
  if (head_dim < 1) fail("query must have head_dim >= 1, got shape " + text_of(query.sizes()));
  if (key.size(0) != batch || key.size(3) != head_dim) {
    fail("key must be [batch, num_kv_heads, seqlen_k, head_dim] = [" + text_of(batch) +
         ", num_kv_heads, seqlen_k, " + text_of(head_dim) + "] to go with query, got shape " +
         text_of(key.sizes()));
  }
  if (value.size(0) != batch || value.size(1) != num_kv_heads || value.size(2) != seqlen_k) {
    fail("value must be [batch, num_kv_heads, seqlen_k, head_dim_v] = [" + text_of(batch) + ", " +
         text_of(num_kv_heads) + ", " + text_of(seqlen_k) +
         ", head_dim_v] to go with key, got shape " + text_of(value.sizes()));
  }
  if (value.size(3) < 1) {
    fail("value must have head_dim_v >= 1, got shape " + text_of(value.sizes()));
  }
  if (num_heads < 1 || num_kv_heads < 1 || num_heads % num_kv_heads != 0) {
    fail("query must have num_heads that is a positive multiple of key's num_kv_heads, got " +
         text_of(num_heads) + " and " + text_of(num_kv_heads));
  }
  for (const auto& [name, tensor, meaning] : operands) {
    if (tensor.size(3) > 1 && tensor.stride(3) != 1) {
      fail(std::string(name) + " must have a contiguous last dimension, got strides " +
           text_of(tensor.strides()) + "; call .contiguous()");
    }
  }
}

void check_devices(const Arguments& arguments) {
  const auto check = [&](const char* name, const std::optional<Tensor>& tensor) {
    if (tensor) check_device(name, *tensor, arguments.query);
  };
  check("key_bias", arguments.key_bias);
  check("influence", arguments.influence);
  check("attn_bias", arguments.attn_bias);
  check("sinks", arguments.sinks);
  check("q_start", arguments.q_start);
}

void check_key_bias(const Tensor& key_bias, const Arguments& arguments) {
  const Tensor& query = arguments.query;
  check_float32("key_bias", key_bias, query);
  if (key_bias.dim() == 3 && broadcasts(key_bias.size(0), query.size(0)) &&
      broadcasts(key_bias.size(1), query.size(1)) && key_bias.size(2) == arguments.key.size(2)) {
    return;
  }
  fail("key_bias must be [1 or batch, 1 or num_heads, seqlen_k] = [1 or " + text_of(query.size(0)) +
       ", 1 or " + text_of(query.size(1)) + ", " + text_of(arguments.key.size(2)) +
       "], got shape " + text_of(key_bias.sizes()));
}

void check_influence(const Tensor& influence, const Arguments& arguments) {
  const Tensor& query = arguments.query;
  check_float32("influence", influence, query);
  if (influence.dim() == 3 && broadcasts(influence.size(0), query.size(0)) &&
      influence.size(1) >= 1 && influence.size(2) == arguments.key.size(2)) {
    return;
  }
  fail("influence must be [1 or batch, channels >= 1, seqlen_k] = [1 or " + text_of(query.size(0)) +
       ", channels >= 1, " + text_of(arguments.key.size(2)) + "], got shape " +
       text_of(influence.sizes()));
}

void check_attn_bias(const Tensor& attn_bias, const Arguments& arguments) {
  const Tensor& query = arguments.query;
  if (attn_bias.scalar_type() != ScalarType::Bool && !is_floating(attn_bias.scalar_type())) {
    fail("attn_bias must be bool (True = visible), float16, bfloat16, float32 or float64, got " +
         text_of(attn_bias.scalar_type()));
  }
  if (attn_bias.dim() == 4 && broadcasts(attn_bias.size(0), query.size(0)) &&
      broadcasts(attn_bias.size(1), query.size(1)) && attn_bias.size(2) == query.size(2) &&
      attn_bias.size(3) == arguments.key.size(2)) {
    return;
  }
  fail("attn_bias must be [1 or batch, 1 or num_heads, seqlen_q, seqlen_k] = [1 or " +
       text_of(query.size(0)) + ", 1 or " + text_of(query.size(1)) + ", " + text_of(query.size(2)) +
       ", " + text_of(arguments.key.size(2)) + "], got shape " + text_of(attn_bias.sizes()));
}

void check_sinks(const Tensor& sinks, const Arguments& arguments) {
  if (!is_floating(sinks.scalar_type())) {
    fail("sinks must be float16, bfloat16, float32 or float64, got " +
         text_of(sinks.scalar_type()));
  }
  if (sinks.dim() != 1 || sinks.size(0) != arguments.query.size(1)) {
    fail("sinks must be [num_heads] = [" + text_of(arguments.query.size(1)) + "], got shape " +
         text_of(sinks.sizes()));
  }
}

void check_q_start(const Tensor& q_start, const Arguments& arguments) {
  if (q_start.scalar_type() != ScalarType::Int) {
    fail("q_start must be int32, got " + text_of(q_start.scalar_type()));
  }
  if (q_start.dim() != 1 || !broadcasts(q_start.size(0), arguments.query.size(0))) {
    fail("q_start must be [1 or batch] = [1 or " + text_of(arguments.query.size(0)) +
         "], got shape " + text_of(q_start.sizes()));
  }
}

void check_window(const char* name, std::int64_t window) {
  if (window < -1) {
    fail(std::string(name) + " must be -1 (no limit) or at least 0, got " + text_of(window));
  }
}

// A result of the op or what reached it.
void check_result(const char* name, const Tensor& tensor, const char* meaning,
                  const std::vector<std::int64_t>& sizes, ScalarType type, const Tensor& query) {
  check_device(name, tensor, query);
  const IntHeaderOnlyArrayRef expected(sizes.data(), sizes.size());
  if (tensor.scalar_type() != type) {
    fail(std::string(name) + " must be " + text_of(type) + ", got " +
         text_of(tensor.scalar_type()));
  }
  const IntHeaderOnlyArrayRef actual = tensor.sizes();
  if (actual.size() != sizes.size() || !std::equal(sizes.begin(), sizes.end(), actual.begin())) {
    fail(std::string(name) + " must be " + meaning + " = " + text_of(expected) + ", got shape " +
         text_of(actual));
  }
}

}  // namespace

void check_backward_arguments(const BackwardArguments& arguments) {
  const Arguments& call = arguments.call;
  check_arguments(call);
  const Tensor& query = call.query;
  const ScalarType type = query.scalar_type();
  const ScalarType single = type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const std::int64_t batch = query.size(0), num_heads = query.size(1), seqlen_q = query.size(2);
  const std::int64_t channels = call.influence ? call.influence->size(1) : 0;
  const std::vector<std::int64_t> out{batch, num_heads, seqlen_q, call.value.size(3)};
  const std::vector<std::int64_t> influence_out{batch, channels, num_heads, seqlen_q};
  const std::vector<std::int64_t> lse{batch, num_heads, seqlen_q};
  const auto check_out = [&](const char* name, const Tensor& tensor) {
    check_result(name, tensor, "[batch, num_heads, seqlen_q, head_dim_v]", out, type, query);
  };
  const auto check_influence_out = [&](const char* name, const Tensor& tensor) {
    check_result(name, tensor, "[batch, channels, num_heads, seqlen_q]", influence_out, single,
                 query);
  };
  const auto check_lse = [&](const char* name, const Tensor& tensor) {
    check_result(name, tensor, "[batch, num_heads, seqlen_q]", lse, single, query);
  };
  if (arguments.grad_out) check_out("grad_out", *arguments.grad_out);
  if (arguments.grad_influence_out) {
    check_influence_out("grad_influence_out", *arguments.grad_influence_out);
  }
  if (arguments.grad_lse) check_lse("grad_lse", *arguments.grad_lse);
  check_out("out", arguments.out);
  check_influence_out("influence_out", arguments.influence_out);
  check_lse("lse", arguments.lse);
  if (arguments.wanted.size() != kNumGradients) {
    fail("wanted must have 7 entries, got " +
         text_of(static_cast<std::int64_t>(arguments.wanted.size())));
  }
}

void check_arguments(const Arguments& arguments) {
  check_operands(arguments.query, arguments.key, arguments.value);
  check_devices(arguments);
  if (arguments.key_bias) check_key_bias(*arguments.key_bias, arguments);
  if (arguments.influence) check_influence(*arguments.influence, arguments);
  if (arguments.attn_bias) check_attn_bias(*arguments.attn_bias, arguments);
  if (arguments.sinks) check_sinks(*arguments.sinks, arguments);
  if (arguments.q_start) check_q_start(*arguments.q_start, arguments);
  check_window("window_left", arguments.window_left);
  check_window("window_right", arguments.window_right);
  // Kernels compute in float32 and may do so in bits: a number that leaves its range there would
  // change its meaning.
  constexpr double kSmallest = std::numeric_limits<float>::min();
  // Only where it is passed: printing a number takes as long as all checks together.
  const auto limit = [] { return text_of(kLargestFactor); };
  if (arguments.scale && !(std::abs(*arguments.scale) <= kLargestFactor)) {
    fail("scale must be at most " + limit() + " in magnitude, got " + text_of(*arguments.scale));
  }
  const double softcap = arguments.softcap;
  if (!(softcap == 0.0 || (softcap >= kSmallest && softcap <= kLargestFactor))) {
    fail("softcap must be 0 (off) or from " + text_of(kSmallest) + " to " + limit() + ", got " +
         text_of(softcap));
  }
  if (softcap != 0.0 && arguments.scale && std::abs(*arguments.scale) > kLargestFactor * softcap) {
    fail("scale / softcap must be at most " + limit() + " in magnitude, got " +
         text_of(*arguments.scale) + " / " + text_of(softcap));
  }
}

}  // namespace guide
