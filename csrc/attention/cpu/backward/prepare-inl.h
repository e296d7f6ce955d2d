// SPDX-License-Identifier: MIT
// What a row needs before its keys: from what its weights are measured, and the sum delta that its
// softmax takes from every gradient.
#pragma once

#include "pack-inl.h"

namespace guide::cpu::GUIDE_CPU_NAMESPACE {
namespace {
namespace backward {

// Magnitude of lse in nats up to which it tells the weights well enough. It is rounded, and an
// error of lse is a relative error of all weights of its row: here at most 2^-21. Beyond, the
// scores are summed once more, which costs a fifth of all products and a packing of the keys.
constexpr float kTrustedLse = 16.f;

GUIDE_INLINE float sum_of(VecF numbers) {
  float sum = 0.f;
  for (int lane = 0; lane < kLanes; ++lane) sum += numbers[lane];
  return sum;
}

GUIDE_INLINE float max_of_lanes(VecF numbers) {
  float largest = numbers[0];
  for (int lane = 1; lane < kLanes; ++lane) {
    if (numbers[lane] > largest) largest = numbers[lane];
  }
  return largest;
}

GUIDE_INLINE float exp2_of(float x) { return exp2_nonpositive(broadcast(x))[0]; }

GUIDE_INLINE float sink_of(const AttentionParams& call, std::int64_t head_idx) {
  return in_unit_of<BitsMath>(
      decode_any(call.sinks, call.sinks_type, head_idx * call.sinks_stride));
}

// One block of rows.
template <class Element, bool kSoftcap>
class RowPreparation {
 public:
  RowPreparation(const BackwardParams& params, const BackwardPlan& plan, std::int64_t row_task,
                 float* scratch, float* shared)
      : params_(params),
        call_(params.call),
        plan_(plan),
        row_task_(row_task),
        block_(row_block_at(params, plan, row_task)),
        scratch_(layout_scratch(params, plan, scratch)),
        shared_(layout_shared(params, plan, shared)),
        first_row_(first_row_of(params, block_)) {}

  void run() {
    shared_.visits[row_task_] = 0;
    if (shared_.query != nullptr) {
      clear(shared_.query + first_row_ * call_.head_dim, block_.num_rows * call_.head_dim);
    }
    prepare_deltas();
    bool is_trusted = true;
    for (std::int64_t row = 0; row < block_.num_rows; ++row) is_trusted &= prepare_row(row);
    if (!is_trusted) sum_scores();
    if (shared_.sinks != nullptr) sum_sinks();
  }

 private:
  // Whether lse tells the weights of the row.
  bool prepare_row(std::int64_t row) {
    const float lse = lse_of(params_, block_, row);
    const bool sees_nothing = is_blind(lse);
    // The weight is e^-lse * 2^score. The product with log2(e) is kept to twice the precision.
    constexpr auto kLog2ERest = static_cast<float>(kBitsPerNat - static_cast<double>(kLog2E));
    const float origin = sees_nothing ? 0.f : lse * kLog2E;
    const float rest =
        sees_nothing
            ? 0.f
            : static_cast<float>(static_cast<double>(lse) * kLog2E - static_cast<double>(origin)) +
                  lse * kLog2ERest;
    shared_.origin[first_row_ + row] = origin;
    shared_.factor[first_row_ + row] = 1.f - rest * static_cast<float>(1 / kBitsPerNat);
    return sees_nothing || is_trusted(lse);
  }

  // A NaN is: it has made its row NaN.
  static bool is_trusted(float lse) { return !(lse > kTrustedLse || lse < -kTrustedLse); }

  // Sums in the order in which the tiles sum the gradient of a weight, so that the two are equal,
  // and cancel, in a row that sees one key alone: its results are that key's.
  void prepare_deltas() const {
    const std::int64_t stride = row_stride(padded_dim(call_.head_dim_v));
    float* out = scratch_.value_sums;
    if (params_.grad_out != nullptr) pack_grad_out<Element>(params_, block_, scratch_.grad_out);
    for (std::int64_t first = 0; first < block_.num_rows; first += kTileRows) {
      const std::int64_t count = min_of(kTileRows, block_.num_rows - first);
      VecF sums[kTileRows];
      for (int i = 0; i < kTileRows; ++i) sums[i] = broadcast(0.f);
      if (params_.grad_out != nullptr) {
        for (int i = 0; i < kTileRows; ++i) {
          const auto* source =
              row_of<Element>(params_.out, params_.out_strides, block_.batch_idx, block_.head_idx,
                              block_.q_begin + first + min_of(i, count - 1));
          decode_strided_row<Element>(source, params_.out_dim_stride, call_.head_dim_v,
                                      call_.head_dim_v, out + i * stride);
        }
        const float* grad = scratch_.grad_out + first * stride;
        for (std::int64_t d = 0; d < call_.head_dim_v; ++d) {
          for (int i = 0; i < kTileRows; ++i) {
            sums[i] =
                fmadd(broadcast(grad[i * stride + d]), broadcast(out[i * stride + d]), sums[i]);
          }
        }
      }
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t row = first + i;
        const bool sees_nothing = is_blind(lse_of(params_, block_, row));
        shared_.delta[first_row_ + row] = sees_nothing ? 0.f : with_other_results(sums[i], row);
      }
    }
  }

  float with_other_results(VecF sum, std::int64_t row) const {
    for (std::int64_t channel = 0;
         params_.grad_influence_out != nullptr && channel < call_.channels; ++channel) {
      const float flow = params_.grad_influence_out[flow_offset(params_.grad_influence_out_strides,
                                                                block_, channel, row)];
      const float influence =
          params_.influence_out[flow_offset(params_.influence_out_strides, block_, channel, row)];
      sum = fmadd(broadcast(flow), broadcast(influence), sum);
    }
    if (params_.grad_lse == nullptr) return sum[0];
    const RowStrides& strides = params_.grad_lse_strides;
    return sum[0] -
           params_.grad_lse[block_.batch_idx * strides.batch + block_.head_idx * strides.head +
                            (block_.q_begin + row) * strides.row];
  }

  // Finds the maximum and the sum of the weights of the rows whose lse is not trusted.
  void sum_scores() {
    pack_queries<Element>(params_, block_, scratch_.query);
    float row_max[kBlockM], row_sum[kBlockM];
    for (std::int64_t row = 0; row < kBlockM; ++row) {
      row_max[row] = -kInfinity;
      row_sum[row] = 0.f;
    }
    const KeyRange seen = key_blocks_of(params_, plan_, block_);
    for (std::int64_t index = seen.begin; index < seen.end; ++index) {
      add_key_block(index * plan_.keys_per_task, row_max, row_sum);
    }
    for (std::int64_t row = 0; row < block_.num_rows; ++row) {
      const float lse = lse_of(params_, block_, row);
      if (is_blind(lse) || is_trusted(lse)) continue;
      float origin = row_max[row];
      float sum = row_sum[row];
      if (call_.sinks != nullptr) {
        const float sink = sink_of(call_, block_.head_idx);
        const float new_max = sink > origin ? sink : origin;
        sum = sum * exp2_of(origin - new_max) + exp2_of(sink - new_max);
        origin = new_max;
      }
      shared_.origin[first_row_ + row] = origin;
      shared_.factor[first_row_ + row] = sum == 0.f ? 0.f : 1.f / sum;
    }
  }

  void add_key_block(std::int64_t k_begin, float* row_max, float* row_sum) {
    const std::int64_t num_keys = min_of(plan_.keys_per_task, call_.seqlen_k - k_begin);
    const KeyBlock keys{block_.batch_idx, block_.head_idx / call_.group_size, k_begin, num_keys,
                        round_up(num_keys, kPanel)};
    pack_panels<Element>(call_.key, call_.key_strides, keys, call_.head_dim, scratch_.key,
                         scratch_.key_panels);
    View view;
    fill_view(params_, keys, block_, view);
    pack_bias(call_, keys, block_.head_idx, plan_.keys_per_task, scratch_.key_bias);
    const std::int64_t stride = row_stride(plan_.keys_per_task);
    view.bias = scratch_.key_bias;
    view.bias_stride = 0;
    if (call_.attn_bias != nullptr) {
      pack_dense_bias(call_, keys, block_, scratch_.key_bias, stride, scratch_.addends);
      view.bias = scratch_.addends;
      view.bias_stride = stride;
    }
    const ScoreFactors factors = score_factors(call_.scale, call_.softcap, BitsMath::kUnit);
    for (std::int64_t k = 0; k < keys.padded_keys; k += kPanel) {
      for (std::int64_t row = 0; row < kBlockM; row += kTileRows) {
        Tile tile;
        score_tile<kSoftcap>(call_, scratch_, view, factors, row, k, tile, nullptr);
        for (int i = 0; i < kTileRows; ++i) {
          for (int v = 0; v < kTileVectors; ++v) {
            const VecF bias = bias_at(view, row + i, k + v * kLanes);
            const VecI seen = seen_by(view, row + i, k + v * kLanes, bias);
            store(scratch_.prob + (row + i) * stride + k + v * kLanes,
                  select(seen, tile[i][v], broadcast(-kInfinity)));
          }
        }
      }
    }
    for (std::int64_t row = 0; row < block_.num_rows; ++row) {
      add_scores(scratch_.prob + row * stride, keys.padded_keys, row_max[row], row_sum[row]);
    }
  }

  static void add_scores(const float* scores, std::int64_t count, float& row_max, float& row_sum) {
    VecF largest = broadcast(-kInfinity);
    for (std::int64_t k = 0; k < count; k += kLanes) {
      largest = max_or_second(load(scores + k), largest);
    }
    const float block_max = max_of_lanes(largest);
    const float new_max = block_max > row_max ? block_max : row_max;
    const VecF origin = exponent_origin<BitsMath>(broadcast(new_max));
    VecF sum = broadcast(0.f);
    for (std::int64_t k = 0; k < count; k += kLanes) {
      sum += exp2_nonpositive(load(scores + k) - origin);
    }
    row_sum = row_sum * exp2_of(row_max - origin[0]) + sum_of(sum);
    row_max = new_max;
  }

  // A sink is a score without a value: the gradient of its value is 0.
  void sum_sinks() const {
    const float sink = sink_of(call_, block_.head_idx);
    float sum = 0.f;
    for (std::int64_t row = 0; row < block_.num_rows; ++row) {
      if (is_blind(lse_of(params_, block_, row))) continue;
      const std::int64_t at = first_row_ + row;
      const float prob = exp2_of(sink - shared_.origin[at]) * shared_.factor[at];
      sum -= prob * shared_.delta[at];
    }
    shared_.sinks[row_task_] = sum;
  }

  const BackwardParams& params_;
  const AttentionParams& call_;
  const BackwardPlan& plan_;
  const std::int64_t row_task_;
  const RowBlock block_;
  const Scratch scratch_;
  const Shared shared_;
  const std::int64_t first_row_;
};

}  // namespace backward
}  // namespace
}  // namespace guide::cpu::GUIDE_CPU_NAMESPACE
