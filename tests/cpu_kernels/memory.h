// SPDX-License-Identifier: MIT
// Memory whose wrong use shows: a read or write after its end meets a page that nobody may touch.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

// `size` bytes that end where a page without any right begins. They are all ones, NaN as a number
// of every type, until somebody writes.
class GuardedBytes {
 public:
  explicit GuardedBytes(std::size_t size) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t usable = (size + page - 1) / page * page;
    mapped_ = usable + page;
    base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base_ == MAP_FAILED) throw std::bad_alloc();
    std::memset(base_, 0xff, usable);
    if (mprotect(static_cast<std::byte*>(base_) + usable, page, PROT_NONE) != 0) {
      munmap(base_, mapped_);
      throw std::bad_alloc();
    }
    data_ = static_cast<std::byte*>(base_) + usable - size;
  }
  ~GuardedBytes() {
    if (base_ != nullptr) munmap(base_, mapped_);
  }
  GuardedBytes(GuardedBytes&& other) noexcept
      : base_(other.base_), data_(other.data_), mapped_(other.mapped_) {
    other.base_ = nullptr;
  }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;

  void* data() const { return data_; }

 private:
  void* base_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t mapped_ = 0;
};
