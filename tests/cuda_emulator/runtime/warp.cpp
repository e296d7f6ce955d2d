// SPDX-License-Identifier: MIT
// PTX ISA 9.0, "bar.warp.sync", "shfl.sync", "vote.sync": the executing thread waits until all
// threads of the mask that have not exited have executed the same instruction with the same mask;
// only bar.warp.sync orders their memory accesses.
#include "warp.h"

#include <cstring>

#include "block.h"
#include "report.h"
#include "scheduler.h"

namespace cuda_emulator {
namespace {

std::string hexadecimal(std::uint32_t mask) {
  std::ostringstream stream;
  stream << "0x" << std::hex << mask;
  return stream.str();
}

Warp& running_warp() { return running_block.warps[static_cast<std::size_t>(running_thread->warp)]; }

Thread& lane_of_warp(int warp, int lane) {
  return running_block.threads[static_cast<std::size_t>(warp * kWarpSize + lane)];
}

template <class Visit>
void for_each_lane(std::uint32_t mask, Visit visit) {
  for (; mask != 0; mask &= mask - 1) visit(__builtin_ctz(mask));
}

Meeting* find_meeting(Warp& warp, const Collective& collective, int variant, std::uint32_t mask,
                      std::uint32_t me) {
  for (Meeting& meeting : warp.meetings) {
    if (meeting.collective == &collective && meeting.variant == variant && meeting.mask == mask &&
        (meeting.arrived & me) == 0) {
      return &meeting;
    }
  }
  return nullptr;
}

// Lanes that wait for this one elsewhere, while it is about to wait for them, will wait for ever.
void check_divergence(const Warp& warp, const Meeting* mine, const Collective& collective,
                      std::uint32_t mask, std::uint32_t me) {
  for (const Meeting& meeting : warp.meetings) {
    const std::uint32_t stuck = meeting.arrived & mask;
    if (&meeting == mine || (meeting.mask & me) == 0 || stuck == 0) continue;
    report(text(
        "divergent warp: executes ", collective.name, " with mask ", hexadecimal(mask),
        " while thread ", lane_of_warp(running_thread->warp, __builtin_ctz(stuck)).number,
        " waits for it at ", meeting.collective->name, " with mask ", hexadecimal(meeting.mask),
        meeting.collective == &collective && meeting.mask == mask ? ", or with other operands"
                                                                  : ""));
    return;
  }
}

bool is_complete(const Warp& warp, const Meeting& meeting) {
  const std::uint32_t excused = meeting.collective->needs_exited_lanes ? 0 : warp.exited;
  return (meeting.mask & ~excused & ~meeting.arrived) == 0;
}

void finish(Warp& warp, Meeting& meeting) {
  meeting.collective->finish(meeting.arguments, meeting.arrived, meeting.variant);
  warp.runnable |= meeting.arrived;
  meeting = warp.meetings.back();
  warp.meetings.pop_back();
}

// ---- bar.warp.sync ---------------------------------------------------------------------------

void finish_sync_warp(void* const*, std::uint32_t mask, int) {
  std::vector<int> threads;
  for_each_lane(
      mask, [&](int lane) { threads.push_back(lane_of_warp(running_thread->warp, lane).number); });
  running_block.race_checker.synchronise(threads, threads);
}

constexpr Collective kSyncWarp = {"bar.warp.sync", false, finish_sync_warp};

// ---- shfl.sync -------------------------------------------------------------------------------

struct ShuffleArgument {
  const void* in;
  void* out;
  int source;
};

void finish_shuffle(void* const* arguments, std::uint32_t mask, int bytes) {
  for_each_lane(mask, [&](int lane) {
    const auto& argument = *static_cast<const ShuffleArgument*>(arguments[lane]);
    const auto size = static_cast<std::size_t>(bytes);
    if (argument.source >= 0 && argument.source < kWarpSize && (mask >> argument.source & 1) != 0) {
      std::memcpy(argument.out, static_cast<const ShuffleArgument*>(arguments[argument.source])->in,
                  size);
      return;
    }
    report(lane_of_warp(running_thread->warp, lane),
           text("shfl.sync reads lane ", argument.source,
                ", which takes no part: the lanes that do are ", hexadecimal(mask)));
    std::memset(argument.out, 0xff, size);
  });
}

constexpr Collective kShuffle = {"shfl.sync", false, finish_shuffle};

// ---- vote.sync.ballot ------------------------------------------------------------------------

struct BallotArgument {
  bool predicate;
  std::uint32_t result;
};

void finish_ballot(void* const* arguments, std::uint32_t mask, int) {
  std::uint32_t result = 0;
  for_each_lane(mask, [&](int lane) {
    if (static_cast<const BallotArgument*>(arguments[lane])->predicate) result |= 1u << lane;
  });
  for_each_lane(mask,
                [&](int lane) { static_cast<BallotArgument*>(arguments[lane])->result = result; });
}

constexpr Collective kBallot = {"vote.sync.ballot", false, finish_ballot};

}  // namespace

bool meet(const Collective& collective, int variant, std::uint32_t mask, void* argument) {
  Warp& warp = running_warp();
  const int lane = running_thread->lane;
  const std::uint32_t me = 1u << lane;
  if ((mask & me) == 0) {
    report(text(collective.name, " with mask ", hexadecimal(mask),
                ", which leaves out the lane that executes it"));
    return false;
  }
  Meeting* meeting = find_meeting(warp, collective, variant, mask, me);
  check_divergence(warp, meeting, collective, mask, me);
  if (meeting == nullptr) {
    warp.meetings.emplace_back();
    meeting = &warp.meetings.back();
    meeting->collective = &collective;
    meeting->variant = variant;
    meeting->mask = mask;
    meeting->arrived = 0;
  }
  meeting->arguments[lane] = argument;
  meeting->arrived |= me;
  if (is_complete(warp, *meeting)) {
    finish(warp, *meeting);
  } else {
    wait_at(collective.name);
  }
  return true;
}

void leave_warp() {
  Warp& warp = running_warp();
  warp.exited |= 1u << running_thread->lane;
  for (std::size_t i = 0; i < warp.meetings.size();) {
    if (is_complete(warp, warp.meetings[i])) {
      finish(warp, warp.meetings[i]);
    } else {
      ++i;
    }
  }
}

void sync_warp(std::uint32_t mask) { meet(kSyncWarp, 0, mask, nullptr); }

void shuffle(std::uint32_t mask, const void* in, void* out, int bytes, int source_lane) {
  ShuffleArgument argument{in, out, source_lane};
  if (!meet(kShuffle, bytes, mask, &argument)) {
    std::memset(out, 0xff, static_cast<std::size_t>(bytes));
  }
}

std::uint32_t ballot(std::uint32_t mask, bool predicate) {
  BallotArgument argument{predicate, 0};
  meet(kBallot, 0, mask, &argument);
  return argument.result;
}

}  // namespace cuda_emulator
