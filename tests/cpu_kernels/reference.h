// SPDX-License-Identifier: MIT
// Attention and its gradients, straight from the formulas and one row at a time: in double the
// truth, in float what a plain implementation gets.
#pragma once

#include "problem.h"

// `rounding` is the type to which every intermediate result is rounded, as by an implementation
// that keeps scores and weights as elements; kFloat64: none.
template <class Real>
class Reference {
 public:
  Reference(const Problem& problem, const Inputs& inputs, ElementType rounding)
      : problem_(problem), inputs_(inputs), rounding_(rounding) {}

  Results run() {
    const Problem& p = problem_;
    const auto zeros = [](std::int64_t count) {
      return std::vector<Real>(static_cast<std::size_t>(count));
    };
    out_ = zeros(p.rows() * p.head_dim_v);
    influence_out_ = zeros(p.rows() * p.channels);
    lse_ = zeros(p.rows());
    grad_query_ = zeros(p.rows() * p.head_dim);
    grad_key_ = zeros(p.keys() * p.head_dim);
    grad_value_ = zeros(p.keys() * p.head_dim_v);
    grad_key_bias_ = zeros(static_cast<std::int64_t>(inputs_.key_bias.size()));
    grad_influence_ = zeros(static_cast<std::int64_t>(inputs_.influence.size()));
    grad_sinks_ = zeros(static_cast<std::int64_t>(inputs_.sinks.size()));
    for (std::int64_t b = 0; b < p.batch; ++b) {
      for (std::int64_t h = 0; h < p.num_heads; ++h) {
        for (std::int64_t q = 0; q < p.seqlen_q; ++q) run_row(b, h, q);
      }
    }
    const auto as_double = [](const std::vector<Real>& numbers) {
      return std::vector<double>(numbers.begin(), numbers.end());
    };
    return {as_double(out_),           as_double(influence_out_),  as_double(lse_),
            as_double(grad_query_),    as_double(grad_key_),       as_double(grad_value_),
            as_double(grad_key_bias_), as_double(grad_influence_), as_double(grad_sinks_)};
  }

 private:
  static std::size_t at(const guide::RowStrides& strides, std::int64_t b, std::int64_t h,
                        std::int64_t row) {
    return static_cast<std::size_t>(b * strides.batch + h * strides.head + row * strides.row);
  }
  static Real real(double number) { return static_cast<Real>(number); }
  Real rounded(Real number) const {
    if (rounding_ == ElementType::kFloat64) return number;
    return static_cast<Real>(rounded_to(rounding_, static_cast<double>(number)));
  }
  static Real dot(const double* a, const double* b, std::int64_t count) {
    Real sum = 0;
    for (std::int64_t i = 0; i < count; ++i) sum += real(a[i]) * real(b[i]);
    return sum;
  }

  void run_row(std::int64_t b, std::int64_t h, std::int64_t q) {
    const Problem& p = problem_;
    const std::int64_t kv_head = h / (p.num_heads / p.num_kv_heads);
    const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
    const std::size_t row = size((b * p.num_heads + h) * p.seqlen_q + q);
    const auto flow = [&](std::int64_t channel) {
      return size(((b * p.channels + channel) * p.num_heads + h) * p.seqlen_q + q);
    };
    const std::size_t query = at(p.strides(p.num_heads, p.seqlen_q, p.head_dim), b, h, q);
    const std::size_t out = at(p.strides(p.num_heads, p.seqlen_q, p.head_dim_v), b, h, q);
    // Gradients are contiguous, whatever their inputs are.
    const std::size_t grad_query = row * size(p.head_dim);
    const auto bias_index = [&](std::int64_t k) {
      return size((p.bias_heads() > 1 ? h : 0) * p.seqlen_k + k);
    };
    const auto influence_index = [&](std::int64_t channel, std::int64_t k) {
      return size((b * p.channels + channel) * p.seqlen_k + k);
    };
    const auto key_of = [&](std::int64_t k) {
      return at(p.strides(p.num_kv_heads, p.seqlen_k, p.head_dim), b, kv_head, k);
    };
    const auto value_of = [&](std::int64_t k) {
      return at(p.strides(p.num_kv_heads, p.seqlen_k, p.head_dim_v), b, kv_head, k);
    };

    std::vector<std::int64_t> seen;
    std::vector<Real> prob, slope;
    Real largest = -std::numeric_limits<Real>::infinity();
    for (std::int64_t k = 0; k < p.seqlen_k; ++k) {
      double bias = inputs_.key_bias.empty() ? 0 : inputs_.key_bias[bias_index(k)];
      if (!inputs_.dense_bias.empty()) bias += inputs_.dense_bias[size(q * p.seqlen_k + k)];
      if (!p.sees(q, k) || std::isinf(bias)) continue;
      Real score =
          rounded(dot(&inputs_.query[query], &inputs_.key[key_of(k)], p.head_dim) * real(p.scale));
      slope.push_back(1);
      if (p.softcap != 0) {
        const Real capped = rounded(std::tanh(score / real(p.softcap)));
        slope.back() = 1 - capped * capped;
        score = real(p.softcap) * capped;
      }
      prob.push_back(rounded(score + real(bias)));
      seen.push_back(k);
      largest = std::max(largest, prob.back());
    }
    if (seen.empty()) {
      lse_[row] = largest;
      return;
    }
    Real sink = 0;
    if (!inputs_.sinks.empty()) largest = std::max(largest, real(inputs_.sinks[size(h)]));
    Real sum = 0;
    for (Real& weight : prob) sum += weight = std::exp(weight - largest);
    if (!inputs_.sinks.empty()) {
      sink = std::exp(real(inputs_.sinks[size(h)]) - largest);
      sum += sink;
    }
    lse_[row] = largest + std::log(sum);
    for (Real& weight : prob) weight = rounded(weight / sum);

    // Of the weights, and what the softmax takes from them.
    std::vector<Real> grad(seen.size());
    Real common = 0;
    for (std::size_t i = 0; i < seen.size(); ++i) {
      const std::int64_t k = seen[i];
      for (std::int64_t d = 0; d < p.head_dim_v; ++d) {
        out_[out + size(d)] += prob[i] * real(inputs_.value[value_of(k) + size(d)]);
      }
      grad[i] = rounded(dot(&inputs_.grad_out[out], &inputs_.value[value_of(k)], p.head_dim_v));
      for (std::int64_t channel = 0; channel < p.channels; ++channel) {
        const Real influence = real(inputs_.influence[influence_index(channel, k)]);
        const Real reached = real(inputs_.grad_influence_out[flow(channel)]);
        influence_out_[flow(channel)] += prob[i] * influence;
        grad[i] += reached * influence;
        grad_influence_[influence_index(channel, k)] += prob[i] * reached;
      }
      common += prob[i] * grad[i];
    }
    for (std::int64_t d = 0; d < p.head_dim_v; ++d) {
      out_[out + size(d)] = rounded(out_[out + size(d)]);
    }
    common -= real(inputs_.grad_lse[row]);
    if (!inputs_.sinks.empty()) grad_sinks_[size(h)] -= sink / sum * common;
    for (std::size_t i = 0; i < seen.size(); ++i) {
      const std::int64_t k = seen[i];
      const std::size_t key_row = size((b * p.num_kv_heads + kv_head) * p.seqlen_k + k);
      const Real grad_score = rounded(prob[i] * (grad[i] - common));
      if (!grad_key_bias_.empty()) grad_key_bias_[bias_index(k)] += grad_score;
      const Real grad_dot = rounded(grad_score * slope[i]) * real(p.scale);
      for (std::int64_t d = 0; d < p.head_dim; ++d) {
        grad_query_[grad_query + size(d)] += grad_dot * real(inputs_.key[key_of(k) + size(d)]);
        grad_key_[key_row * size(p.head_dim) + size(d)] +=
            grad_dot * real(inputs_.query[query + size(d)]);
      }
      for (std::int64_t d = 0; d < p.head_dim_v; ++d) {
        grad_value_[key_row * size(p.head_dim_v) + size(d)] +=
            prob[i] * real(inputs_.grad_out[out + size(d)]);
      }
    }
  }

  const Problem& problem_;
  const Inputs& inputs_;
  const ElementType rounding_;
  std::vector<Real> out_, influence_out_, lse_;
  std::vector<Real> grad_query_, grad_key_, grad_value_, grad_key_bias_, grad_influence_,
      grad_sinks_;
};
