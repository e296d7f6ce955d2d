// SPDX-License-Identifier: MIT
// The Python module `_C`: what was built, and how; and what of the libraries' work needs to know
// Python. It needs no torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "error_keeper.h"

namespace {

std::vector<std::string> split_commas(const char* text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

// "2.10": the two highest bytes of the version that the stable ABI was compiled for.
std::string torch_target() {
  constexpr std::uint64_t kTarget = GUIDE_TORCH_TARGET;
  return std::to_string(kTarget >> 56) + "." + std::to_string((kTarget >> 48) & 0xff);
}

pybind11::dict build_info() {
  pybind11::dict info;
  info["version"] = GUIDE_VERSION;
  info["compiler"] = GUIDE_COMPILER;
  info["torch_target"] = torch_target();
  info["instruction_sets"] = split_commas(GUIDE_INSTRUCTION_SETS);
  info["cuda_architectures"] = split_commas(GUIDE_CUDA_ARCHITECTURES);
  info["cuda_skipped_because"] = GUIDE_CUDA_SKIPPED_BECAUSE;
  info["git_revision"] = GUIDE_GIT_REVISION;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Facts about the build of guide_ext, and errors of Python through C++.";
  module.def("build_info", &build_info,
             "What was built: version, compiler, torch_target, instruction_sets, "
             "cuda_architectures, cuda_skipped_because, git_revision.");
  guide::define_error_keeper(module);
}
