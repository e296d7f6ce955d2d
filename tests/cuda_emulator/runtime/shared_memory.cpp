// SPDX-License-Identifier: MIT
// PTX ISA 9.0, "ld" and "st": the address of an access, vectors included, is a multiple of its
// size.
#include "shared_memory.h"

#include <cstring>

#include "block.h"
#include "report.h"

namespace cuda_emulator {

void SharedMemory::start_block(std::size_t bytes) {
  if (memory_ == nullptr) memory_.reset(new std::uint8_t[kMaxSharedBytes]);
  bytes_ = bytes;
  std::memset(memory_.get(), kPoison, bytes);
}

bool SharedMemory::find(const Thread& thread, std::uint32_t address, int bytes, const char* what,
                        std::uint32_t* offset) const {
  const std::int64_t signed_offset = std::int64_t{address} - std::int64_t{kSharedBase};
  if (signed_offset < 0 || signed_offset + bytes > static_cast<std::int64_t>(bytes_)) {
    report(thread, text(what, " of ", bytes, " bytes at shared offset ", signed_offset,
                        ": outside the ", bytes_, " bytes of shared memory"));
    return false;
  }
  if (address % static_cast<std::uint32_t>(bytes) != 0) {
    report(thread, text(what, " of ", bytes, " bytes at shared offset ", signed_offset,
                        ": not a multiple of ", bytes));
    return false;
  }
  *offset = static_cast<std::uint32_t>(signed_offset);
  return true;
}

std::uint32_t shared_memory() { return kSharedBase; }

void load_shared(std::uint32_t address, void* value, int bytes) {
  std::uint32_t offset;
  if (!running_block.shared_memory.find(*running_thread, address, bytes, "ld.shared", &offset)) {
    std::memset(value, kPoison, static_cast<std::size_t>(bytes));
    return;
  }
  running_block.race_checker.read(*running_thread, offset, bytes, "ld.shared");
  std::memcpy(value, running_block.shared_memory.at_offset(offset),
              static_cast<std::size_t>(bytes));
}

void store_shared(std::uint32_t address, const void* value, int bytes) {
  std::uint32_t offset;
  if (!running_block.shared_memory.find(*running_thread, address, bytes, "st.shared", &offset)) {
    return;
  }
  running_block.race_checker.write(*running_thread, offset, bytes, "st.shared");
  std::memcpy(running_block.shared_memory.at_offset(offset), value,
              static_cast<std::size_t>(bytes));
}

}  // namespace cuda_emulator
