// SPDX-License-Identifier: MIT
// Tiles of rows in shared memory: where an element lies, and how a tile gets there.
#pragma once

#include "../ptx.cuh"

namespace guide::cuda::sm80 {

constexpr int kChunkElements = 8;  // 16 bytes: what one copy or one row of ldmatrix moves
constexpr int kChunkBytes = 16;

GUIDE_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
GUIDE_DEVICE int lane_index() { return static_cast<int>(threadIdx.x & 31u); }
GUIDE_DEVICE int warp_index() { return static_cast<int>(threadIdx.x >> 5); }

// Where the 16-byte chunks of the rows of a tile lie.
//
// Shared memory has 8 groups of 16 bytes to read from at once. The chunks of a row are permuted by
// XOR with the row, so that the same chunk of 8 consecutive rows lies in 8 different groups. Where
// a row is an odd multiple of 64 bytes, two rows share 128 bytes and two bits are left to permute.
//
// The place of every chunk that a thread touches follows from that of its first, in one register:
// steps between rows and chunks that are known at compile time become an XOR and a sum.
template <int kHeadDim>
class ChunkAddress {
 public:
  // `tile` is a multiple of 128, as the bits that are permuted must be free in it.
  GUIDE_DEVICE ChunkAddress(std::uint32_t tile, int row, int chunk)
      : first_(tile +
               static_cast<std::uint32_t>(row * kRowBytes + chunk / kPermuted * kGroupBytes +
                                          (chunk % kPermuted ^ row_bits(row)) * kChunkBytes)) {}

  // `rows` further down and `chunks` to the right; neither may carry into the bits that the first
  // row and chunk have set.
  GUIDE_DEVICE std::uint32_t at(int rows, int chunks) const {
    const int permuted = (chunks % kPermuted ^ row_bits(rows)) * kChunkBytes;
    return (first_ ^ static_cast<std::uint32_t>(permuted)) +
           static_cast<std::uint32_t>(rows * kRowBytes + chunks / kPermuted * kGroupBytes);
  }

 private:
  static constexpr int kChunks = kHeadDim / kChunkElements;
  static constexpr int kRowBytes = kChunks * kChunkBytes;
  static constexpr int kPermuted = kChunks % 8 == 0 ? 8 : 4;  // chunks that change places
  static constexpr int kGroupBytes = kPermuted * kChunkBytes;

  static GUIDE_DEVICE int row_bits(int row) {
    return (kPermuted == 8 ? row : row >> 1) % kPermuted;
  }

  std::uint32_t first_;
};

// Rows of one head in global memory.
struct Rows {
  const std::uint16_t* first;  // element 0 of row 0; bf16 or fp16
  std::int64_t stride;         // elements
  std::int64_t num_rows;       // rows beyond are read as zeros
  std::int32_t num_elements;   // elements beyond are read as zeros
  bool is_aligned;             // every row starts at a multiple of 16 bytes
};

// A chunk of a row that cannot be copied in one piece.
GUIDE_DEVICE uint4 gather_chunk(const Rows& rows, std::int64_t row, int chunk) {
  std::uint32_t words[4];
#pragma unroll
  for (int word = 0; word < 4; ++word) {
    words[word] = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int element = chunk * kChunkElements + word * 2 + half;
      if (row < rows.num_rows && element < rows.num_elements) {
        const std::uint32_t bits = ptx::load_global(rows.first + row * rows.stride + element);
        words[word] |= bits << (16 * half);
      }
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Copies blocks of kRows rows to tiles. Neighbouring threads take neighbouring chunks; a thread
// keeps its column and takes every kRowsPerPass-th row, so that all its addresses follow from one.
template <class Traits, int kRows>
class TileCopy {
 public:
  GUIDE_DEVICE explicit TileCopy(const Rows& rows)
      : rows_(rows),
        source_(rows.first + first_row() * rows.stride + first_chunk() * kChunkElements) {}

  // Starts to fill `tile` with the block of rows that begins at row_begin. Aligned rows arrive with
  // the copies that the caller commits and waits for, others at once; both are visible to other
  // threads after a barrier.
  GUIDE_DEVICE void start(std::uint32_t tile, int row_begin) const {
    const ChunkAddress<Traits::kHeadDim> target(tile, first_row(), first_chunk());
    const int rows_left = static_cast<int>(rows_.num_rows) - row_begin - first_row();
    if constexpr (Traits::kIsGeneral) {
      if (!rows_.is_aligned) return gather(target, row_begin);
    }
    const std::uint16_t* source = source_ + row_begin * rows_.stride;
#pragma unroll
    for (int pass = 0; pass < kRows / kRowsPerPass; ++pass) {
#pragma unroll
      for (int group = 0; group < kChunks / kLanes; ++group) {
        const int element = (first_chunk() + group * kLanes) * kChunkElements;
        const bool exists = pass * kRowsPerPass < rows_left && element < rows_.num_elements;
        ptx::copy_async_chunk(
            target.at(pass * kRowsPerPass, group * kLanes),
            source + pass * kRowsPerPass * rows_.stride + group * kLanes * kChunkElements,
            exists ? kChunkBytes : 0);
      }
    }
  }

 private:
  static constexpr int kChunks = Traits::kHeadDim / kChunkElements;
  static constexpr int kLanes = kChunks % 8 == 0 ? kChunks : 4;  // threads side by side in a row
  static constexpr int kRowsPerPass = Traits::kThreads / kLanes;
  static_assert(kRows % kRowsPerPass == 0 && kChunks % kLanes == 0, "every thread copies as much");

  static GUIDE_DEVICE int first_row() { return static_cast<int>(threadIdx.x / kLanes); }
  static GUIDE_DEVICE int first_chunk() { return static_cast<int>(threadIdx.x % kLanes); }

  GUIDE_DEVICE void gather(ChunkAddress<Traits::kHeadDim> target, int row_begin) const {
#pragma unroll 1
    for (int pass = 0; pass < kRows / kRowsPerPass; ++pass) {
#pragma unroll 1
      for (int group = 0; group < kChunks / kLanes; ++group) {
        ptx::store_shared_chunk(target.at(pass * kRowsPerPass, group * kLanes),
                                gather_chunk(rows_, row_begin + first_row() + pass * kRowsPerPass,
                                             first_chunk() + group * kLanes));
      }
    }
  }

  Rows rows_;
  const std::uint16_t* source_;  // this thread's first chunk of the first block
};

}  // namespace guide::cuda::sm80
