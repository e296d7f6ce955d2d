// SPDX-License-Identifier: MIT
// Every schema of the library, and nothing else.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(guide, library) {
  // The op. A kernel of a device checks every argument and computes what it can; what it has no
  // instance for it sends on to biased_attention_chunked.
  library.def(
      "biased_attention(Tensor query, Tensor key, Tensor value, Tensor? key_bias=None, "
      "Tensor? influence=None, Tensor? attn_bias=None, Tensor? sinks=None, Tensor? q_start=None, "
      "*, bool is_causal=False, int window_left=-1, int window_right=-1, float? scale=None, "
      "float softcap=0.0) -> (Tensor out, Tensor influence_out, Tensor lse)");
  // The same in pure PyTorch, chunk by chunk, for every device and dtype. Implemented in Python.
  library.def(
      "biased_attention_chunked(Tensor query, Tensor key, Tensor value, Tensor? key_bias=None, "
      "Tensor? influence=None, Tensor? attn_bias=None, Tensor? sinks=None, Tensor? q_start=None, "
      "*, bool is_causal=False, int window_left=-1, int window_right=-1, float? scale=None, "
      "float softcap=0.0) -> (Tensor out, Tensor influence_out, Tensor lse)");
}
