// SPDX-License-Identifier: MIT
// The CPU kernels under ThreadSanitizer: threads of a pool share the work of a call, and callers
// run at the same time. Torch's own pool is not instrumented, so plain threads stand in for it.
// Prints nothing and returns 0 if all results have the bits of a single thread's.
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "attention/cpu/backward.h"
#include "attention/cpu/forward.h"

namespace {

using guide::AttentionParams;

void run_workers(std::int64_t workers, void (*body)(void* context, std::int64_t worker),
                 void* context) {
  std::vector<std::thread> threads;
  for (std::int64_t worker = 0; worker < workers; ++worker) {
    threads.emplace_back(body, context, worker);
  }
  for (std::thread& thread : threads) thread.join();
}

struct Sizes {
  std::int64_t batch, num_heads, num_kv_heads, seqlen_q, seqlen_k, head_dim;
};

// One call with its inputs and results, fp32, contiguous [batch, heads, rows, elements].
class Call {
 public:
  explicit Call(const Sizes& sizes) : sizes_(sizes) {
    std::mt19937 generator(1);
    std::normal_distribution<float> normal;
    const auto draw = [&](std::vector<float>& numbers, std::int64_t count) {
      numbers.resize(static_cast<std::size_t>(count));
      for (float& number : numbers) number = normal(generator);
    };
    const std::int64_t keys = sizes.batch * sizes.num_kv_heads * sizes.seqlen_k;
    draw(query_, rows() * sizes.head_dim);
    draw(key_, keys * sizes.head_dim);
    draw(value_, keys * sizes.head_dim);
    draw(key_bias_, sizes.seqlen_k);
    draw(influence_, sizes.seqlen_k);
  }

  // out, influence_out and lse, one after another; then the gradients of query, key, value,
  // key_bias and influence, where every result has a gradient of its own value.
  std::vector<float> run(std::int64_t num_threads) const {
    const std::int64_t num_outputs = rows() * sizes_.head_dim;
    const std::int64_t num_keys = sizes_.batch * sizes_.num_kv_heads * sizes_.seqlen_k;
    std::vector<float> results(static_cast<std::size_t>(
        2 * num_outputs + 2 * rows() + 2 * num_keys * sizes_.head_dim + 2 * sizes_.seqlen_k));
    AttentionParams params{};
    params.batch = sizes_.batch;
    params.num_heads = sizes_.num_heads;
    params.num_kv_heads = sizes_.num_kv_heads;
    params.group_size = sizes_.num_heads / sizes_.num_kv_heads;
    params.seqlen_q = sizes_.seqlen_q;
    params.seqlen_k = sizes_.seqlen_k;
    params.head_dim = params.head_dim_v = sizes_.head_dim;
    params.query = query_.data();
    params.key = key_.data();
    params.value = value_.data();
    params.query_strides = params.out_strides = strides(sizes_.num_heads, sizes_.seqlen_q);
    params.key_strides = params.value_strides = strides(sizes_.num_kv_heads, sizes_.seqlen_k);
    params.key_bias = key_bias_.data();
    params.key_bias_key_stride = 1;
    params.influence = influence_.data();
    params.channels = 1;
    params.influence_key_stride = 1;
    params.out = results.data();
    params.influence_out = results.data() + num_outputs;
    params.lse = params.influence_out + rows();
    params.scale = 0.2f;
    params.is_causal = true;
    params.window_left = params.window_right = -1;
    guide::cpu::forward(params, guide::cpu::choose(params), {num_threads, run_workers});
    run_backward(params, num_threads, params.lse + rows());
    return results;
  }

 private:
  void run_backward(const AttentionParams& call, std::int64_t num_threads, float* target) const {
    guide::BackwardParams params{};
    params.call = call;
    params.out = params.grad_out = call.out;
    params.out_strides = params.grad_out_strides = call.out_strides;
    params.out_dim_stride = params.grad_out_dim_stride = 1;
    params.influence_out = params.grad_influence_out = call.influence_out;
    const std::int64_t head_rows = sizes_.seqlen_q, batch_rows = sizes_.num_heads * head_rows;
    params.influence_out_strides =
        params.grad_influence_out_strides = {batch_rows, batch_rows, head_rows, 1};
    params.lse = params.grad_lse = call.lse;
    params.lse_strides = params.grad_lse_strides = {batch_rows, head_rows, 1};
    const std::int64_t num_keys = sizes_.batch * sizes_.num_kv_heads * sizes_.seqlen_k;
    params.grad_query = target;
    params.grad_key = target += rows() * sizes_.head_dim;
    params.grad_value = target += num_keys * sizes_.head_dim;
    params.grad_key_bias = target += num_keys * sizes_.head_dim;
    params.grad_influence = target += sizes_.seqlen_k;
    params.key_bias_batches = params.key_bias_heads = params.influence_batches = 1;
    guide::cpu::backward(params, *guide::cpu::choose_backward(call, false),
                         {num_threads, run_workers});
  }

  std::int64_t rows() const { return sizes_.batch * sizes_.num_heads * sizes_.seqlen_q; }
  guide::RowStrides strides(std::int64_t heads, std::int64_t length) const {
    return {heads * length * sizes_.head_dim, length * sizes_.head_dim, sizes_.head_dim};
  }

  Sizes sizes_;
  std::vector<float> query_, key_, value_, key_bias_, influence_;
};

bool have_equal_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

int main() {
  // Prefill, decoding with split keys, and the sizes between them.
  constexpr Sizes kSizes[] = {
      {1, 4, 2, 200, 300, 64}, {1, 8, 2, 1, 5000, 64}, {2, 4, 4, 12, 3000, 40}, {1, 1, 1, 3, 9, 8}};
  constexpr int kCallers = 3;
  constexpr std::int64_t kThreads = 4;
  for (const Sizes& sizes : kSizes) {
    const Call call(sizes);
    const std::vector<float> expected = call.run(1);
    std::vector<std::vector<float>> results(kCallers);
    std::vector<std::thread> callers;
    for (std::vector<float>& result : results) {
      callers.emplace_back([&call, &result] { result = call.run(kThreads); });
    }
    for (std::thread& caller : callers) caller.join();
    for (const std::vector<float>& result : results) {
      if (!have_equal_bits(result, expected)) {
        std::printf("other bits with %lld rows\n", static_cast<long long>(sizes.seqlen_q));
        return 1;
      }
    }
  }
  return 0;
}
