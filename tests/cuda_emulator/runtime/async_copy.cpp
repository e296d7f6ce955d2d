// SPDX-License-Identifier: MIT
// PTX ISA 9.0, "cp.async", "cp.async.commit_group", "cp.async.wait_group": a copy may happen at any
// time between its start and the end of the wait for its group, in no order with other copies; then
// the thread that started it, and after a barrier the others, may read the bytes.
// cp.async.wait_group N waits until at most the N most recent groups are pending. Both addresses
// are multiples of the size; `src-size` bytes are copied and the rest is zero.
//
// Here a copy happens as late as that allows, or with the random schedule sometimes at once. Until
// the wait its bytes are poison, and nobody may touch them.
#include "async_copy.h"

#include <cstring>

#include "block.h"
#include "global_memory.h"
#include "report.h"
#include "scheduler.h"

namespace cuda_emulator {
namespace {

constexpr double kCopyAtOnce = 0.3;

void move_bytes(const AsyncCopy& copy) {
  std::uint8_t* target = running_block.shared_memory.at_offset(copy.offset);
  const auto copied = static_cast<std::size_t>(copy.source_bytes);
  if (copied != 0) std::memcpy(target, copy.source, copied);
  std::memset(target + copied, 0, static_cast<std::size_t>(copy.bytes) - copied);
}

}  // namespace

void copy_async(std::uint32_t shared_address, const void* source, int bytes, int source_bytes) {
  ++statistics.async_copies;
  const Thread& thread = *running_thread;
  if (bytes != 4 && bytes != 8 && bytes != 16) {
    report(text("cp.async of ", bytes, " bytes: must be 4, 8 or 16"));
    return;
  }
  if (source_bytes < 0 || source_bytes > bytes) {
    report(text("cp.async of ", bytes, " bytes from a source of ", source_bytes, ": must be 0 to ",
                bytes));
    return;
  }
  std::uint32_t offset;
  if (!running_block.shared_memory.find(thread, shared_address, bytes, "cp.async", &offset)) return;
  if (reinterpret_cast<std::uintptr_t>(source) % static_cast<std::uintptr_t>(bytes) != 0) {
    report(text("cp.async of ", bytes, " bytes to shared offset ", offset, ": the global address ",
                source, " is not a multiple of ", bytes));
    return;
  }
  AsyncCopies& copies = running_thread->copies;
  AsyncCopy copy{offset, source, bytes, source_bytes, copies.open_group};
  if (source_bytes != 0 && !check_global_range(source, source_bytes, false, "cp.async")) {
    copy.source_bytes = 0;  // not to be touched: the process may not own it
  }
  running_block.race_checker.start_copy(thread, offset, bytes);
  std::memset(running_block.shared_memory.at_offset(offset), kPoison,
              static_cast<std::size_t>(bytes));
  if (schedule.policy == Policy::kRandom && random_choices.happens(kCopyAtOnce)) move_bytes(copy);
  copies.started.push_back(copy);
}

void copy_async_commit() { ++running_thread->copies.open_group; }

void copy_async_wait(int groups_left) {
  AsyncCopies& copies = running_thread->copies;
  const int end = copies.open_group - groups_left;
  while (copies.finished < copies.started.size() && copies.started[copies.finished].group < end) {
    const AsyncCopy& copy = copies.started[copies.finished++];
    move_bytes(copy);
    running_block.race_checker.finish_copy(*running_thread, copy.offset, copy.bytes);
  }
  if (copies.finished == copies.started.size()) {
    copies.started.clear();
    copies.finished = 0;
  }
}

void finish_copies_at_exit() {
  AsyncCopies& copies = running_thread->copies;
  if (copies.finished == copies.started.size()) return;
  const AsyncCopy& copy = copies.started[copies.finished];
  report(text(
      "exits while its cp.async of ", copy.bytes, " bytes to shared offset ", copy.offset,
      copy.group == copies.open_group ? " has not been committed" : " has not been waited for"));
}

}  // namespace cuda_emulator
