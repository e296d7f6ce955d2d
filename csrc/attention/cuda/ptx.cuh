// SPDX-License-Identifier: MIT
// Every instruction that C++ has no word for, and every access to shared and global memory.
//
// The only file with inline PTX. Each wrapper has two bodies: the instruction, and a call of the
// emulator that does what the PTX ISA (version 9.0) says of it. Shared memory is known by 32-bit
// addresses alone, and is touched through these wrappers alone, so the emulator sees each access.
#pragma once

#include "../params.h"
#include "runtime.h"

#ifdef GUIDE_CUDA_EMULATED
#define GUIDE_INSTRUCTION(emulated, ...) emulated
#else
#define GUIDE_INSTRUCTION(emulated, ...) __VA_ARGS__
#endif

namespace guide::cuda {

// Tags of the operand types; the kernels move their bits and never compute in them.
struct BFloat16 {
  static constexpr ElementType kType = ElementType::kBFloat16;
  static constexpr bool kIsBFloat16 = true;
};
struct Float16 {
  static constexpr ElementType kType = ElementType::kFloat16;
  static constexpr bool kIsBFloat16 = false;
};

namespace ptx {

// ---- Memory ----------------------------------------------------------------------------------

// Address of the dynamic shared memory of the thread block, aligned to 128 bytes.
GUIDE_DEVICE std::uint32_t shared_memory() {
#ifdef GUIDE_CUDA_EMULATED
  return cuda_emulator::shared_memory();
#else
  extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(dynamic_shared_memory));
#endif
}

GUIDE_DEVICE float load_shared(std::uint32_t address) {
  float value;
  GUIDE_INSTRUCTION(
      cuda_emulator::load_shared(address, &value, sizeof(value)),
      asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory"));
  return value;
}

// Two neighbours; the address is a multiple of 8.
GUIDE_DEVICE float2 load_shared_pair(std::uint32_t address) {
  float2 value;
  GUIDE_INSTRUCTION(cuda_emulator::load_shared(address, &value, sizeof(value)),
                    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(value.x),
                                 "=f"(value.y) : "r"(address) : "memory"));
  return value;
}

// 16 bytes; the address is a multiple of 16.
GUIDE_DEVICE uint4 load_shared_chunk(std::uint32_t address) {
  uint4 value;
  GUIDE_INSTRUCTION(
      cuda_emulator::load_shared(address, &value, sizeof(value)),
      asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(value.x), "=r"(value.y),
                   "=r"(value.z), "=r"(value.w) : "r"(address) : "memory"));
  return value;
}

GUIDE_DEVICE void store_shared(std::uint32_t address, float value) {
  GUIDE_INSTRUCTION(cuda_emulator::store_shared(address, &value, sizeof(value)),
                    asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory"));
}

GUIDE_DEVICE void store_shared(std::uint32_t address, std::uint32_t value) {
  GUIDE_INSTRUCTION(cuda_emulator::store_shared(address, &value, sizeof(value)),
                    asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory"));
}

GUIDE_DEVICE void store_shared_chunk(std::uint32_t address, uint4 value) {
  GUIDE_INSTRUCTION(
      cuda_emulator::store_shared(address, &value, sizeof(value)),
      asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(value.x),
                   "r"(value.y), "r"(value.z), "r"(value.w) : "memory"));
}

// Global memory; `Value` is a number or a CUDA vector of up to 16 bytes, aligned to its size.
template <class Value>
GUIDE_DEVICE Value load_global(const Value* source) {
#ifdef GUIDE_CUDA_EMULATED
  if (!cuda_emulator::check_global(source, sizeof(Value), false)) return Value{};
#endif
  return *source;
}

template <class Value>
GUIDE_DEVICE void store_global(Value* target, Value value) {
#ifdef GUIDE_CUDA_EMULATED
  if (!cuda_emulator::check_global(target, sizeof(Value), true)) return;
#endif
  *target = value;
}

// ---- Asynchronous copies ---------------------------------------------------------------------

// Starts to copy 16 bytes to shared memory, past the first-level cache: `source_bytes` of them,
// then zeros. Both addresses are multiples of 16.
GUIDE_DEVICE void copy_async_chunk(std::uint32_t shared_address, const void* source,
                                   int source_bytes) {
  GUIDE_INSTRUCTION(
      cuda_emulator::copy_async(shared_address, source, 16, source_bytes),
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address),
                   "l"(source), "r"(source_bytes) : "memory"));
}

// Closes a group of the copies that this thread has started.
GUIDE_DEVICE void copy_async_commit() {
  GUIDE_INSTRUCTION(cuda_emulator::copy_async_commit(),
                    asm volatile("cp.async.commit_group;" :: : "memory"));
}

// Waits until at most `kGroups` of this thread's groups are under way.
template <int kGroups>
GUIDE_DEVICE void copy_async_wait() {
  GUIDE_INSTRUCTION(cuda_emulator::copy_async_wait(kGroups),
                    asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory"));
}

// ---- Matrices --------------------------------------------------------------------------------

// Four 8x8 matrices of 16-bit elements. Lane 8 i + r gives the address of row r of matrix i, a
// multiple of 16. Register i of lane l gets elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of
// matrix i; with _transposed, of its column l / 4.
GUIDE_DEVICE void load_matrices(std::uint32_t (&registers)[4], std::uint32_t address) {
  GUIDE_INSTRUCTION(
      cuda_emulator::load_matrices(registers, 4, false, address),
      asm volatile(
          "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(registers[0]),
          "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3]) : "r"(address) : "memory"));
}

GUIDE_DEVICE void load_matrices_transposed(std::uint32_t (&registers)[4], std::uint32_t address) {
  GUIDE_INSTRUCTION(
      cuda_emulator::load_matrices(registers, 4, true, address),
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(
                       registers[0]),
                   "=r"(registers[1]), "=r"(registers[2]),
                   "=r"(registers[3]) : "r"(address) : "memory"));
}

// sums += a @ b for a 16x16 `a`, a 16x8 `b` and 16x8 sums in fp32. With g = lane / 4 and
// t = lane % 4: sums are [g][2t, 2t+1], [g+8][2t, 2t+1]; a is [g][2t..], [g+8][2t..], [g][2t+8..],
// [g+8][2t+8..]; b is [2t, 2t+1][g], [2t+8, 2t+9][g].
template <class Element>
GUIDE_DEVICE void mma_m16n8k16(float (&sums)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                               std::uint32_t b1) {
#ifdef GUIDE_CUDA_EMULATED
  const std::uint32_t b[2] = {b0, b1};
  cuda_emulator::mma_m16n8k16(Element::kIsBFloat16, sums, a, b);
#else
#define GUIDE_MMA(type)                                                               \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])           \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  if constexpr (Element::kIsBFloat16) {
    GUIDE_MMA("bf16");
  } else {
    GUIDE_MMA("f16");
  }
#undef GUIDE_MMA
#endif
}

// ---- Numbers ---------------------------------------------------------------------------------

// Two numbers rounded to the element type, `low` in the low half.
template <class Element>
GUIDE_DEVICE std::uint32_t pack(float low, float high) {
  std::uint32_t packed;
#ifdef GUIDE_CUDA_EMULATED
  packed = cuda_emulator::pack(Element::kIsBFloat16, low, high);
#else
  if constexpr (Element::kIsBFloat16) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  }
#endif
  return packed;
}

GUIDE_DEVICE float from_float16(std::uint16_t bits) {
  float value;
  GUIDE_INSTRUCTION(value = cuda_emulator::from_float16(bits),
                    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits)));
  return value;
}

GUIDE_DEVICE float from_bfloat16(std::uint16_t bits) {
  return __uint_as_float(static_cast<std::uint32_t>(bits) << 16);
}

// 2^x with a relative error below 2^-22; results below 2^-126 become 0.
GUIDE_DEVICE float exp2(float x) {
  float y;
  GUIDE_INSTRUCTION(y = cuda_emulator::exp2(x),
                    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)));
  return y;
}

// The larger of two numbers; NaN if one is NaN, unlike fmaxf.
GUIDE_DEVICE float max_or_nan(float a, float b) {
  float larger;
  GUIDE_INSTRUCTION(larger = cuda_emulator::max_or_nan(a, b),
                    asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b)));
  return larger;
}

}  // namespace ptx
}  // namespace guide::cuda
