// SPDX-License-Identifier: MIT
// Every schema of the library, and nothing else.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(guide, library) {
  // The op. A kernel of a device checks every argument and computes what it can; what it has no
  // instance for it sends on to biased_attention_chunked.
  library.def(
      "biased_attention(Tensor query, Tensor key, Tensor value, Tensor? key_bias=None, "
      "Tensor? influence=None, Tensor? attn_bias=None, Tensor? sinks=None, Tensor? q_start=None, "
      "*, bool is_causal=False, SymInt window_left=-1, SymInt window_right=-1, float? scale=None, "
      "float softcap=0.0) -> (Tensor out, Tensor influence_out, Tensor lse)");
  // The same in pure PyTorch, chunk by chunk, for every device and dtype. Implemented in Python.
  library.def(
      "biased_attention_chunked(Tensor query, Tensor key, Tensor value, Tensor? key_bias=None, "
      "Tensor? influence=None, Tensor? attn_bias=None, Tensor? sinks=None, Tensor? q_start=None, "
      "*, bool is_causal=False, SymInt window_left=-1, SymInt window_right=-1, float? scale=None, "
      "float softcap=0.0) -> (Tensor out, Tensor influence_out, Tensor lse)");
  // The gradients, recomputed from lse. One that does not exist, or that nobody wants, comes as a
  // tensor without elements. The kernel of the CPU sends on what it has no instance for; for other
  // devices the implementation is in Python.
  library.def(
      "biased_attention_backward(Tensor? grad_out, Tensor? grad_influence_out, Tensor? grad_lse, "
      "Tensor query, Tensor key, Tensor value, Tensor? key_bias, Tensor? influence, "
      "Tensor? attn_bias, Tensor? sinks, Tensor? q_start, Tensor out, Tensor influence_out, "
      "Tensor lse, *, bool is_causal, SymInt window_left, SymInt window_right, float? scale, "
      "float softcap, bool[] wanted) -> (Tensor grad_query, Tensor grad_key, Tensor grad_value, "
      "Tensor grad_key_bias, Tensor grad_influence, Tensor grad_attn_bias, Tensor grad_sinks)");
  // The same in pure PyTorch, chunk by chunk. Implemented in Python.
  library.def(
      "biased_attention_backward_chunked(Tensor? grad_out, Tensor? grad_influence_out, "
      "Tensor? grad_lse, "
      "Tensor query, Tensor key, Tensor value, Tensor? key_bias, Tensor? influence, "
      "Tensor? attn_bias, Tensor? sinks, Tensor? q_start, Tensor out, Tensor influence_out, "
      "Tensor lse, *, bool is_causal, SymInt window_left, SymInt window_right, float? scale, "
      "float softcap, bool[] wanted) -> (Tensor grad_query, Tensor grad_key, Tensor grad_value, "
      "Tensor grad_key_bias, Tensor grad_influence, Tensor grad_attn_bias, Tensor grad_sinks)");
  // What the kernels call where torch's own operator of that name failed: it raises the error that
  // C++ has lost. Implemented in Python.
  library.def(
      "new_empty_strided(Tensor self, SymInt[] size, SymInt[] stride, ScalarType dtype) -> Tensor");
}
