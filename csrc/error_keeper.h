// SPDX-License-Identifier: MIT
// Lets errors of Python pass through libguide_ext, which must not know Python.
#pragma once

#include <pybind11/pybind11.h>

namespace guide {

// Adds `keep_errors` and `error_keeper` to the module.
void define_error_keeper(pybind11::module_& module);

}  // namespace guide
