// SPDX-License-Identifier: MIT
#include "amx_processor.h"

#if defined(__x86_64__) && defined(__linux__)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace guide::cpu {

namespace {

struct Registers {
  unsigned eax, ebx, ecx, edx;
};

// Zeros where there is no such leaf.
Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers found{};
  if (__get_cpuid_count(leaf, subleaf, &found.eax, &found.ebx, &found.ecx, &found.edx) == 0) {
    return {};
  }
  return found;
}

// Which registers the system saves when it switches threads (XCR0).
unsigned saved_registers() {
  constexpr unsigned kHasXgetbv = 1u << 27;
  if ((cpuid(1, 0).ecx & kHasXgetbv) == 0) return 0;
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

}  // namespace

bool has_amx() {
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  constexpr unsigned kInstructions = kAmxBf16 | kAmxTile;
  if ((cpuid(7, 0).edx & kInstructions) != kInstructions) return false;
  constexpr unsigned kTiles = 3u << 17;  // their configuration and their data
  if ((saved_registers() & kTiles) != kTiles) return false;
  // Palette 1: how many tiles there are, of how many rows of how many bytes.
  const Registers palette = cpuid(0x1d, 1);
  return palette.ebx >> 16 >= 8 && (palette.ebx & 0xffff) >= 64 && (palette.ecx & 0xffff) >= 16;
}

// Linux keeps room for tiles only in processes that ask for it, and refuses where a thread has
// given it too small a stack for signals. See docs.kernel.org/arch/x86/xstate.html.
std::string request_amx() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0) return "";
  return std::strerror(errno);
}

}  // namespace guide::cpu

#else

namespace guide::cpu {

bool has_amx() { return false; }

std::string request_amx() { return "not on this system"; }

}  // namespace guide::cpu

#endif
