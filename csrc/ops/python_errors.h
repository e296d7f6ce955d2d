// SPDX-License-Identifier: MIT
// Errors that cross torch's C interface: it says that a call failed, but neither why nor with which
// type. So whatever may fail for a reason that the user must see is an operator of Python, and what
// it raises is kept on the Python side while C++ unwinds.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace guide {

// Calls an operator that Python implements, on a stack of arguments that becomes one of results.
// Throws what it raised: in Python that is the same object again, KeyboardInterrupt included.
void call_python(const char* name, StableIValue* stack);

// Throws torch's own error of a failed allocation on the device of a tensor. Returns if the memory
// can be had after all.
void check_memory(const torch::stable::Tensor& like, std::int64_t bytes);

// Uninitialised, on the device of a tensor. Throws torch's own error if there is no memory.
torch::stable::Tensor new_empty_strided(const torch::stable::Tensor& like,
                                        torch::headeronly::IntHeaderOnlyArrayRef sizes,
                                        torch::headeronly::IntHeaderOnlyArrayRef strides,
                                        torch::headeronly::ScalarType type);

}  // namespace guide
