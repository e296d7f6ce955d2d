// SPDX-License-Identifier: MIT
// The last step of the gradients: sums over batch and heads, and rounding.
#pragma once

#include "task-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace backward {

// Rounds the sums of the queries of a block of rows, where they are not the result itself.
inline void finish_queries(const BackwardParams& params, const RowBlock& block,
                           const Shared& shared) {
  const AttentionParams& call = params.call;
  if (params.grad_query == nullptr || call.element_type == ElementType::kFloat32) return;
  with_element_type(call.element_type, [&](auto element_type) {
    using Element = typename ElementOf<element_type.value>::Type;
    const std::int64_t first = first_row_of(params, block) * call.head_dim;
    auto* target = static_cast<typename Element::Storage*>(params.grad_query) + first;
    const float* sums = shared.query + first;
    for (std::int64_t i = 0; i < block.num_rows * call.head_dim; ++i) {
      target[i] = Element::encode(sums[i]);
    }
  });
}

// result[batch or 1, rows or 1] = sums of parts[batch, num_parts, rows] over what is 1, for `keys`.
// Rows are those of a part: of one head or group of heads, channels for influence.
struct Parts {
  const float* numbers;    // [batch, parts, rows, seqlen_k]
  std::int64_t num_parts;  // that are summed
  std::int64_t rows;       // that are not
  float* result;           // [1 or batch, rows, seqlen_k]
  std::int64_t result_batches;
};

inline void sum_parts(const AttentionParams& call, const Parts& parts, KeyRange keys) {
  const std::int64_t batches = call.batch / parts.result_batches;
  for (std::int64_t batch = 0; batch < parts.result_batches; ++batch) {
    for (std::int64_t row = 0; row < parts.rows; ++row) {
      float* result = parts.result + (batch * parts.rows + row) * call.seqlen_k;
      for (std::int64_t k = keys.begin; k < keys.end; ++k) {
        float sum = 0.f;
        for (std::int64_t i = 0; i < batches * parts.num_parts; ++i) {
          const std::int64_t part = batch * parts.num_parts + i;
          sum += parts.numbers[(part * parts.rows + row) * call.seqlen_k + k];
        }
        result[k] = sum;
      }
    }
  }
}

inline void finish_keys(const BackwardParams& params, const BackwardPlan& plan,
                        std::int64_t key_block, const Shared& shared) {
  const AttentionParams& call = params.call;
  const std::int64_t begin = key_block * plan.keys_per_task;
  const KeyRange keys{begin, min_of(begin + plan.keys_per_task, call.seqlen_k)};
  if (params.grad_key_bias != nullptr) {
    const bool per_head = params.key_bias_heads > 1;
    sum_parts(call,
              {shared.key_bias, per_head ? 1 : call.num_kv_heads, per_head ? call.num_heads : 1,
               params.grad_key_bias, params.key_bias_batches},
              keys);
  }
  if (params.grad_influence != nullptr) {
    sum_parts(call,
              {shared.influence, call.num_kv_heads, call.channels, params.grad_influence,
               params.influence_batches},
              keys);
  }
}

GUIDE_INLINE void encode_any(float value, ElementType type, std::int64_t index, void* target) {
  switch (type) {
    case ElementType::kBFloat16:
      static_cast<std::uint16_t*>(target)[index] = BFloat16::encode(value);
      break;
    case ElementType::kFloat16:
      static_cast<std::uint16_t*>(target)[index] = Float16::encode(value);
      break;
    case ElementType::kFloat64:
      static_cast<double*>(target)[index] = value;
      break;
    default:
      static_cast<float*>(target)[index] = value;
  }
}

inline void finish_sinks(const BackwardParams& params, const BackwardPlan& plan,
                         const Shared& shared) {
  if (params.grad_sinks == nullptr) return;
  const AttentionParams& call = params.call;
  for (std::int64_t head = 0; head < call.num_heads; ++head) {
    float sum = 0.f;
    for (std::int64_t batch = 0; batch < call.batch; ++batch) {
      for (std::int64_t block = 0; block < plan.row_blocks; ++block) {
        sum += shared.sinks[(batch * call.num_heads + head) * plan.row_blocks + block];
      }
    }
    encode_any(sum, call.sinks_type, head, params.grad_sinks);
  }
}

template <class Function>
GUIDE_INLINE void with_types(const AttentionParams& call, const Function& function) {
  with_element_type(call.element_type, [&](auto element_type) {
    with_bool(call.softcap != 0.f, [&](auto has_softcap) { function(element_type, has_softcap); });
  });
}

inline void prepare_rows(const BackwardParams& params, const BackwardPlan& plan,
                         std::int64_t task_idx, float* scratch, float* shared) {
  with_types(params.call, [&](auto element_type, auto has_softcap) {
    using Element = typename ElementOf<element_type.value>::Type;
    RowPreparation<Element, has_softcap.value>(params, plan, task_idx, scratch, shared).run();
  });
}

inline void run_task(const BackwardParams& params, const BackwardPlan& plan, std::int64_t task_idx,
                     float* scratch, float* shared, void (*pause)()) {
  with_types(params.call, [&](auto element_type, auto has_softcap) {
    using Element = typename ElementOf<element_type.value>::Type;
    Task<Element, has_softcap.value>(params, plan, task_idx, scratch, shared, pause).run();
  });
}

inline void finish(const BackwardParams& params, const BackwardPlan& plan, std::int64_t task_idx,
                   float*, float* shared_memory) {
  const Shared shared = layout_shared(params, plan, shared_memory);
  if (task_idx < plan.row_tasks) {
    finish_queries(params, row_block_at(params, plan, task_idx), shared);
  } else if (task_idx < plan.row_tasks + plan.key_blocks) {
    finish_keys(params, plan, task_idx - plan.row_tasks, shared);
  } else {
    finish_sinks(params, plan, shared);
  }
}

constexpr BackwardRoutine kRoutine{make_plan, prepare_rows, run_task, finish};

}  // namespace backward
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
