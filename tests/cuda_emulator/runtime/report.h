// SPDX-License-Identifier: MIT
// Reports of what a kernel did wrong, and statistics of what it did. Nothing here ever stops it.
#pragma once

#include <cstdint>
#include <sstream>
#include <string>

namespace cuda_emulator {

struct Thread;

// Words and numbers as one string.
template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

// Puts the kernel, the block and the thread before what happened. A good place for a breakpoint:
// the stack leads to the line of the kernel.
void report(const Thread& thread, const std::string& what);
// The thread that runs did it.
void report(const std::string& what);
// The block as a whole did it.
void report_block(const std::string& what);

// The reports so far, one a line, and a line that counts those beyond the first few; forgets them.
std::string take_reports();

struct Statistics {
  std::uint64_t blocks = 0;
  std::uint64_t switches = 0;      // from one fiber to another
  std::uint64_t async_copies = 0;  // cp.async instructions of single threads
  std::uint64_t load_matrices = 0;
  std::uint64_t bank_conflicts = 0;  // additional passes over shared memory that ldmatrix needs
  std::uint64_t mma = 0;
};

extern Statistics statistics;

}  // namespace cuda_emulator
