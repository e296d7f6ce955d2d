// SPDX-License-Identifier: MIT
// Whether this machine has Intel AMX, and the permission to use it.
#pragma once

#include <string>

namespace guide::cpu {

// Whether the processor has the instructions and tiles of csrc/attention/cpu/units/amx.cpp, and the
// system keeps their registers.
bool has_amx();

// Asks the system for tiles, for all threads of this process, once and for all. Returns why it
// refuses, nothing if it does not.
std::string request_amx();

}  // namespace guide::cpu
