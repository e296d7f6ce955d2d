// SPDX-License-Identifier: MIT
// What keeps a call from a kernel, for the functions that choose one (cpu/choose.h, cuda/choose.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "params.h"

namespace guide {

// One sentence each.
using Reasons = std::vector<std::string>;

// As torch names it.
inline const char* name_of(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
      return "float32";
    case ElementType::kBFloat16:
      return "bfloat16";
    case ElementType::kFloat16:
      return "float16";
    case ElementType::kFloat64:
      return "float64";
    case ElementType::kBool:
      return "bool";
  }
  return "?";
}

// The obstacles that a call finds on its way to one kernel. Their sentences are made only where a
// list waits for them: every call of the op makes a choice, and explain_dispatch alone reads why.
class Obstacles {
 public:
  explicit Obstacles(Reasons* reasons) : reasons_(reasons) {}

  bool any() const { return any_; }

  // Without a sentence: the kernel is not meant for such calls.
  void add() { any_ = true; }

  // The sentence is that of all parts, which are text or numbers. Kernels with a limit in common
  // may all add it: it is said once.
  template <class... Parts>
  void add(const Parts&... parts) {
    any_ = true;
    if (reasons_ == nullptr) return;
    std::string sentence;
    ((sentence += text_of(parts)), ...);
    if (std::find(reasons_->begin(), reasons_->end(), sentence) == reasons_->end()) {
      reasons_->push_back(sentence);
    }
  }

 private:
  static const std::string& text_of(const std::string& text) { return text; }
  static const char* text_of(const char* text) { return text; }
  static std::string text_of(std::int64_t number) { return std::to_string(number); }

  Reasons* reasons_;
  bool any_ = false;
};

// A limit that every backend has. `backend` as in "the compiled CPU kernel".
inline void add_large_heads(const AttentionParams& params, const char* backend,
                            std::int64_t max_head_dim, Obstacles& obstacles) {
  const auto add = [&](const char* name, std::int64_t head_dim) {
    if (head_dim <= max_head_dim) return;
    obstacles.add(name, " has a head dimension of ", head_dim, ": the compiled ", backend,
                  " kernel takes at most ", max_head_dim);
  };
  add("query", params.head_dim);
  add("value", params.head_dim_v);
}

}  // namespace guide
