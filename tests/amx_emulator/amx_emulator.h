// SPDX-License-Identifier: MIT
// A model of Intel AMX: the tile registers of a thread and the eight instructions that the bf16
// products need. csrc/attention/cpu/prefill/amx_tiles-inl.h runs on it, or on the processor.
//
// After the Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2 (LDTILECFG,
// STTILECFG, TDPBF16PS, TILELOADD/TILELOADDT1, TILERELEASE, TILESTORED, TILEZERO) and volume 1,
// chapter "Programming with Intel AMX". Palette 1 has eight tiles of at most 16 rows of 64 bytes.
//
// What the processor answers by a fault, the model answers by an exception, std::runtime_error,
// that names the instruction.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

namespace amx_emulator {

constexpr int kTiles = 8;
constexpr int kMaxRows = 16;
constexpr int kMaxBytes = 64;  // of a row

// The 64 bytes in memory that LDTILECFG reads.
struct Config {
  std::uint8_t palette;
  std::uint8_t start_row;
  std::uint8_t reserved[14];
  std::uint16_t bytes_of_row[16];  // those of tiles that do not exist must be 0
  std::uint8_t rows[16];
};
static_assert(sizeof(Config) == 64);

// A processor with a fault: the numbers of a pair meet those of the wrong halves.
inline bool swaps_pairs = false;

// The tile registers of one thread.
class Tiles {
 public:
  void load_config(const void* memory) {
    Config config;
    std::memcpy(&config, memory, sizeof(config));
    if (config.palette > 1) fault("ldtilecfg", "palette " + std::to_string(config.palette));
    if (config.palette == 0) return release();
    for (const std::uint8_t byte : config.reserved) {
      if (byte != 0) fault("ldtilecfg", "a reserved byte is not 0");
    }
    for (int tile = 0; tile < 16; ++tile) {
      const int bytes = config.bytes_of_row[tile], rows = config.rows[tile];
      const std::string name = "tile " + std::to_string(tile);
      if (tile >= kTiles && (bytes != 0 || rows != 0)) fault("ldtilecfg", name + " is no tile");
      if (bytes > kMaxBytes) fault("ldtilecfg", name + " has more than 64 bytes in a row");
      if (rows > kMaxRows) fault("ldtilecfg", name + " has more than 16 rows");
      if ((bytes == 0) != (rows == 0)) fault("ldtilecfg", name + " has rows or bytes of 0");
    }
    config_ = config;
    is_configured_ = true;
    for (int tile = 0; tile < kTiles; ++tile) std::memset(content_[tile], 0, sizeof(Content));
  }

  void store_config(void* memory) const {
    const Config none{};
    std::memcpy(memory, is_configured_ ? &config_ : &none, sizeof(Config));
  }

  // No tile can be used until the next configuration, which makes all of them zeros.
  void release() { is_configured_ = false; }

  bool is_configured() const { return is_configured_; }

  void zero(int tile) {
    check("tilezero", tile);
    std::memset(content_[tile], 0, sizeof(Content));
  }

  // TILELOADD and, as far as results go, TILELOADDT1.
  void load(const char* instruction, int tile, const void* memory, std::int64_t stride_bytes) {
    check(instruction, tile);
    const int rows = config_.rows[tile], first = begin_at_start_row(instruction, rows);
    for (int row = first; row < kMaxRows; ++row) {
      std::memset(content_[tile][row], 0, kMaxBytes);
      if (row >= rows) continue;
      std::memcpy(content_[tile][row], static_cast<const char*>(memory) + row * stride_bytes,
                  config_.bytes_of_row[tile]);
    }
  }

  void store(int tile, void* memory, std::int64_t stride_bytes) {
    check("tilestored", tile);
    const int rows = config_.rows[tile], first = begin_at_start_row("tilestored", rows);
    for (int row = first; row < rows; ++row) {
      std::memcpy(static_cast<char*>(memory) + row * stride_bytes, content_[tile][row],
                  config_.bytes_of_row[tile]);
    }
  }

  // C[m][n] += sum over k of A[m][2k] B[k][2n] + A[m][2k+1] B[k][2n+1]. Even and odd products are
  // summed apart, each from zero and by fused multiply-adds, then to each other, then to C. Every
  // step rounds to nearest, takes denormal numbers for 0 and makes none; no flag is set or read.
  void add_bf16_product(int c, int a, int b) {
    for (const int tile : {c, a, b}) check("tdpbf16ps", tile);
    if (c == a || c == b || a == b) fault("tdpbf16ps", "two operands are the same tile");
    const int words = config_.bytes_of_row[a] / 4, columns = config_.bytes_of_row[c] / 4;
    if (config_.bytes_of_row[a] % 4 != 0 || config_.bytes_of_row[b] % 4 != 0 ||
        config_.bytes_of_row[c] % 4 != 0) {
      fault("tdpbf16ps", "a row is no whole number of words");
    }
    if (config_.rows[c] != config_.rows[a] || columns * 4 != config_.bytes_of_row[b] ||
        words != config_.rows[b]) {
      fault("tdpbf16ps", "the shapes do not fit each other");
    }
    if (config_.start_row != 0) fault("tdpbf16ps", "start_row is not 0");
    for (int m = 0; m < config_.rows[c]; ++m) {
      float even[kMaxBytes / 4] = {}, odd[kMaxBytes / 4] = {};
      for (int k = 0; k < words; ++k) {
        const float first = bf16(a, m, 2 * k + swaps_pairs),
                    second = bf16(a, m, 2 * k + !swaps_pairs);
        for (int n = 0; n < columns; ++n) {
          even[n] = multiply_add(first, bf16(b, k, 2 * n), even[n]);
          odd[n] = multiply_add(second, bf16(b, k, 2 * n + 1), odd[n]);
        }
      }
      for (int n = 0; n < columns; ++n) {
        float sum;
        std::memcpy(&sum, content_[c][m] + 4 * n, sizeof(sum));
        sum = flush(flush(sum) + flush(even[n] + odd[n]));
        std::memcpy(content_[c][m] + 4 * n, &sum, sizeof(sum));
      }
    }
    for (int m = 0; m < kMaxRows; ++m) {
      const int kept = m < config_.rows[c] ? config_.bytes_of_row[c] : 0;
      std::memset(content_[c][m] + kept, 0, static_cast<std::size_t>(kMaxBytes - kept));
    }
  }

 private:
  using Content = unsigned char[kMaxRows][kMaxBytes];

  [[noreturn]] static void fault(const char* instruction, const std::string& why) {
    throw std::runtime_error(std::string("amx_emulator: ") + instruction + ": " + why);
  }

  void check(const char* instruction, int tile) const {
    if (!is_configured_) fault(instruction, "no tiles are configured");
    if (tile < 0 || tile >= kTiles) fault(instruction, "there is no such tile");
    if (config_.rows[tile] == 0) {
      fault(instruction, "tile " + std::to_string(tile) + " is not configured");
    }
  }

  // Where an interrupted transfer goes on.
  int begin_at_start_row(const char* instruction, int rows) {
    const int first = config_.start_row;
    if (first >= rows) fault(instruction, "start_row is not a row of the tile");
    config_.start_row = 0;
    return first;
  }

  static float flush(float value) {
    return std::fabs(value) < std::numeric_limits<float>::min() ? std::copysign(0.f, value) : value;
  }

  static float multiply_add(float a, float b, float sum) { return flush(std::fma(a, b, sum)); }

  float bf16(int tile, int row, int element) const {
    std::uint16_t half;
    std::memcpy(&half, content_[tile][row] + 2 * element, sizeof(half));
    const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return flush(value);
  }

  Config config_{};
  bool is_configured_ = false;
  Content content_[kTiles];
};

// Those of the calling thread.
inline Tiles& tiles() {
  static thread_local Tiles tiles_of_thread;
  return tiles_of_thread;
}

}  // namespace amx_emulator
