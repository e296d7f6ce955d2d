// SPDX-License-Identifier: MIT
// The PTX instructions that are no C++ expression. Copied into every translated unit by emit.py,
// after cuda_emulator.h and is_module_variable(); PTX ISA 9.0 says what each of them does.
//
// Integers are unsigned here, so that nothing overflows; `Signed<T>` is how signed instructions
// read them. Of a float result that is NaN, only being NaN is sure: sign and payload are the CPU's,
// except where the ISA promises the canonical NaN and a function below says so.

namespace {
namespace ptx {

#define PTX_INLINE inline __attribute__((always_inline))

template <class Unsigned>
using Signed = std::make_signed_t<Unsigned>;

template <class Integer>
constexpr std::uint32_t kBits = sizeof(Integer) * 8;

template <class To, class From>
PTX_INLINE To bits(From value) {
  static_assert(sizeof(To) == sizeof(From), "moves of bits keep their number");
  return __builtin_bit_cast(To, value);
}

// What a register holds that has not been written: all ones, of floats NaN. Of a predicate it would
// mean nothing, so the translator refuses to read one too early.
template <class T>
constexpr T poison = static_cast<T>(~T{0});
template <>
constexpr bool poison<bool> = false;
template <>
constexpr float poison<float> = __builtin_bit_cast(float, ~std::uint32_t{0});
template <>
constexpr double poison<double> = __builtin_bit_cast(double, ~std::uint64_t{0});

// ---- Integers --------------------------------------------------------------------------------

// Shift amounts are clamped to the width: then the result is all zeros, or all signs.
template <class T>
PTX_INLINE T shift_left(T value, std::uint32_t amount) {
  return amount < kBits<T> ? static_cast<T>(value << amount) : T{0};
}

template <class T>
PTX_INLINE T shift_right(T value, std::uint32_t amount) {
  return amount < kBits<T> ? static_cast<T>(value >> amount) : T{0};
}

template <class T>
PTX_INLINE T shift_right_signed(T value, std::uint32_t amount) {
  const std::uint32_t clamped = amount < kBits<T> ? amount : kBits<T> - 1;
  return static_cast<T>(static_cast<Signed<T>>(value) >> clamped);
}

// The upper half of the product; `Wide` has twice the bits and the sign of the instruction.
template <class Wide, class Narrow, class T>
PTX_INLINE T multiply_high(T a, T b) {
  const Wide product =
      static_cast<Wide>(static_cast<Narrow>(a)) * static_cast<Wide>(static_cast<Narrow>(b));
  return static_cast<T>(product >> kBits<T>);
}

// Division by zero gives an unspecified value: all ones, and a report.
template <class Number, class T>
PTX_INLINE T divide(T a, T b) {
  if (b == 0) {
    cuda_emulator::report("integer division by zero");
    return static_cast<T>(~T{0});
  }
  if (std::is_signed_v<Number> && b == static_cast<T>(~T{0})) return static_cast<T>(T{0} - a);
  return static_cast<T>(static_cast<Number>(a) / static_cast<Number>(b));
}

template <class Number, class T>
PTX_INLINE T remainder(T a, T b) {
  if (b == 0) {
    cuda_emulator::report("remainder of an integer division by zero");
    return static_cast<T>(~T{0});
  }
  if (std::is_signed_v<Number> && b == static_cast<T>(~T{0})) return T{0};
  return static_cast<T>(static_cast<Number>(a) % static_cast<Number>(b));
}

// The smallest number is its own absolute value.
template <class T>
PTX_INLINE T absolute(T value) {
  return static_cast<Signed<T>>(value) < 0 ? static_cast<T>(T{0} - value) : value;
}

template <class T>
PTX_INLINE std::uint32_t leading_zeros(T value) {
  if (value == 0) return kBits<T>;
  return static_cast<std::uint32_t>(__builtin_clzll(value)) - (64 - kBits<T>);
}

template <class T>
PTX_INLINE T reverse_bits(T value) {
  T reversed = 0;
  for (std::uint32_t i = 0; i < kBits<T>; ++i) {
    reversed = static_cast<T>(reversed << 1 | (value >> i & 1));
  }
  return reversed;
}

// Position of the most significant bit that is no sign; all ones if there is none.
template <class T>
PTX_INLINE std::uint32_t find_leading_bit(T value, bool is_signed, bool as_shift_amount) {
  if (is_signed && static_cast<Signed<T>>(value) < 0) value = static_cast<T>(~value);
  if (value == 0) return ~0u;
  const std::uint32_t zeros = leading_zeros(value);
  return as_shift_amount ? zeros : kBits<T> - 1 - zeros;
}

// Bits [position, position + length) of `value`, with their sign if they have one. Both numbers
// count modulo 256 and may lie beyond the end.
template <class T>
PTX_INLINE T extract_bit_field(T value, std::uint32_t position, std::uint32_t length,
                               bool is_signed) {
  position &= 0xff;
  length &= 0xff;
  const T shifted = is_signed ? shift_right_signed(value, position) : shift_right(value, position);
  if (length >= kBits<T>) return shifted;
  const std::uint32_t unused = kBits<T> - length;
  const T left = shift_left(shifted, unused);
  return is_signed ? shift_right_signed(left, unused) : shift_right(left, unused);
}

template <class T>
PTX_INLINE T insert_bit_field(T field, T value, std::uint32_t position, std::uint32_t length) {
  position &= 0xff;
  length &= 0xff;
  const T ones = static_cast<T>(~T{0});
  const T mask = shift_left(static_cast<T>(~shift_left(ones, length)), position);
  return static_cast<T>((shift_left(field, position) & mask) | (value & ~mask));
}

// Each half byte of the selector names one of eight bytes; its top bit asks for that byte's sign.
PTX_INLINE std::uint32_t permute_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
  const std::uint64_t bytes = std::uint64_t{b} << 32 | a;
  std::uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t choice = selector >> (4 * i) & 0xf;
    std::uint32_t byte = static_cast<std::uint32_t>(bytes >> (8 * (choice & 7))) & 0xff;
    if ((choice & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}

// The upper half of b:a shifted left, or the lower half of it shifted right, by at most 32.
PTX_INLINE std::uint32_t funnel_shift_left(std::uint32_t a, std::uint32_t b, std::uint32_t amount) {
  return static_cast<std::uint32_t>((std::uint64_t{b} << 32 | a) << amount >> 32);
}

PTX_INLINE std::uint32_t funnel_shift_right(std::uint32_t a, std::uint32_t b,
                                            std::uint32_t amount) {
  return static_cast<std::uint32_t>((std::uint64_t{b} << 32 | a) >> amount);
}

// Bit i of `table` is the result where the bits of a, b and c make the number i.
PTX_INLINE std::uint32_t look_up(std::uint32_t a, std::uint32_t b, std::uint32_t c,
                                 std::uint32_t table) {
  std::uint32_t result = 0;
  for (std::uint32_t i = 0; i < 8; ++i) {
    if ((table >> i & 1) == 0) continue;
    result |= ((i & 4) != 0 ? a : ~a) & ((i & 2) != 0 ? b : ~b) & ((i & 1) != 0 ? c : ~c);
  }
  return result;
}

// ---- Floats ----------------------------------------------------------------------------------

template <class Float>
PTX_INLINE Float canonical_nan() {
  if constexpr (sizeof(Float) == 4) return bits<Float>(0x7fffffffu);
  if constexpr (sizeof(Float) == 8) return bits<Float>(0x7fffffffffffffffull);
}

// .ftz: denormals are zeros of their sign.
PTX_INLINE float flush(float x) {
  return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
}

// .sat: into [0, 1], and NaN becomes 0.
template <class Float>
PTX_INLINE Float saturate(Float x) {
  return x > Float{0} ? (x < Float{1} ? x : Float{1}) : Float{0};
}

// Of a number and a NaN the number, of two NaNs the canonical one; +0 is larger than -0.
template <class Float>
PTX_INLINE Float maximum(Float a, Float b) {
  if (std::isnan(a)) return std::isnan(b) ? canonical_nan<Float>() : b;
  if (std::isnan(b)) return a;
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}

template <class Float>
PTX_INLINE Float minimum(Float a, Float b) {
  if (std::isnan(a)) return std::isnan(b) ? canonical_nan<Float>() : b;
  if (std::isnan(b)) return a;
  if (a == b) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}

// min.NaN: the canonical NaN if one is NaN.
PTX_INLINE float minimum_or_nan(float a, float b) {
  return std::isnan(a) || std::isnan(b) ? canonical_nan<float>() : minimum(a, b);
}

// An operation rounded as FE_… says. Volatile, lest the compiler move it out of that mode.
template <class Result, class Operation, class... Floats>
__attribute__((noinline)) Result rounded(int mode, Operation operation, Floats... operands) {
  const int before = std::fegetround();
  std::fesetround(mode);
  volatile Result result = operation(static_cast<volatile const Floats&>(operands)...);
  std::fesetround(before);
  return result;
}

// div.approx.f32 is a * (1 / b), at most 2 ulp off for |b| in [2^-126, 2^126]; beyond that the
// reciprocal is flushed. Here it is exact up to there.
PTX_INLINE float divide_approximately(float a, float b) {
  if (std::fabs(b) > 0x1p126f && !std::isinf(b)) return a * std::copysign(0.0f, b);
  return a / b;
}

// cvt from a float that has been rounded to an integer: clamps to the range of the result. NaN
// gives 0, or 2^(bits - 1) if either side has 64 bits.
template <class Integer, class Float>
PTX_INLINE std::make_unsigned_t<Integer> to_integer(Float x) {
  using Limits = std::numeric_limits<Integer>;
  using Unsigned = std::make_unsigned_t<Integer>;
  if (std::isnan(x)) {
    const bool is_wide = sizeof(Integer) == 8 || sizeof(Float) == 8;
    return is_wide ? static_cast<Unsigned>(Unsigned{1} << (kBits<Integer> - 1)) : Unsigned{0};
  }
  if (x >= std::ldexp(Float{1}, Limits::digits)) return static_cast<Unsigned>(Limits::max());
  if (x < static_cast<Float>(Limits::min())) return static_cast<Unsigned>(Limits::min());
  return static_cast<Unsigned>(static_cast<Integer>(x));
}

// cvt.sat between integers: clamps to the range of the result.
template <class To, class From>
PTX_INLINE std::make_unsigned_t<To> saturate_integer(From value) {
  const __int128 wide = value;
  const __int128 low = std::numeric_limits<To>::min(), high = std::numeric_limits<To>::max();
  return static_cast<std::make_unsigned_t<To>>(wide < low ? low : wide > high ? high : wide);
}

// add.sat.s32, sub.sat.s32: the exact result fits into 64 bits.
PTX_INLINE std::uint32_t saturate_sum(std::int64_t exact) {
  return saturate_integer<std::int32_t>(exact);
}

PTX_INLINE std::int64_t widen(std::uint32_t value) { return static_cast<std::int32_t>(value); }

// ---- Memory ----------------------------------------------------------------------------------

// Parameters at a place that only the run tells; the others were checked by the translator.
inline void load_parameter(const void* params, std::uint64_t size, std::uint64_t address,
                           void* value, std::uint64_t bytes) {
  const std::uint64_t offset = address - reinterpret_cast<std::uint64_t>(params);
  if (offset > size || bytes > size - offset || offset % bytes != 0) {
    cuda_emulator::report("ld.param outside of the parameters, or not aligned");
    std::memset(value, 0xff, bytes);
    return;
  }
  std::memcpy(value, reinterpret_cast<const void*>(address), bytes);
}

// A shared address in a 64-bit register.
PTX_INLINE std::uint32_t shared_address(std::uint64_t address) {
  if (address >> 32 != 0) cuda_emulator::report("shared address of more than 32 bits");
  return static_cast<std::uint32_t>(address);
}

PTX_INLINE void load_global(std::uint64_t address, void* value, int bytes) {
  const void* source = reinterpret_cast<const void*>(address);
  if (is_module_variable(address, bytes) || cuda_emulator::check_global(source, bytes, false)) {
    std::memcpy(value, source, static_cast<std::size_t>(bytes));
  } else {
    std::memset(value, 0xff, static_cast<std::size_t>(bytes));
  }
}

PTX_INLINE void store_global(std::uint64_t address, const void* value, int bytes) {
  void* target = reinterpret_cast<void*>(address);
  if (is_module_variable(address, bytes)) {
    cuda_emulator::report("st.global to a module variable, which the emulator keeps constant");
  } else if (cuda_emulator::check_global(target, bytes, true)) {
    std::memcpy(target, value, static_cast<std::size_t>(bytes));
  }
}

inline void load_constant(std::uint64_t address, void* value, int bytes) {
  if (is_module_variable(address, bytes)) {
    std::memcpy(value, reinterpret_cast<const void*>(address), static_cast<std::size_t>(bytes));
  } else {
    cuda_emulator::report("ld.const outside of the module's variables, or not aligned");
    std::memset(value, 0xff, static_cast<std::size_t>(bytes));
  }
}

// ---- Threads ---------------------------------------------------------------------------------

PTX_INLINE std::uint32_t lane() { return static_cast<std::uint32_t>(cuda_emulator::lane_index()); }

enum class Shuffle { kUp, kDown, kButterfly, kIndex };

// The lane that shfl.sync reads: bits 0-4 of `clamp` bound it, bits 8-12 cut the warp into
// segments. Beyond the bound it is the lane itself, and the predicate false.
PTX_INLINE int shuffle_source(Shuffle mode, std::uint32_t operand, std::uint32_t clamp,
                              bool& is_in_range) {
  const int me = static_cast<int>(lane()), value = static_cast<int>(operand & 31);
  const int segment = static_cast<int>(clamp >> 8 & 31), bound = static_cast<int>(clamp & 31);
  const int max_lane = (me & segment) | (bound & ~segment);
  int source = 0;
  switch (mode) {
    case Shuffle::kUp:
      source = me - value;
      break;
    case Shuffle::kDown:
      source = me + value;
      break;
    case Shuffle::kButterfly:
      source = me ^ value;
      break;
    case Shuffle::kIndex:
      source = (me & segment) | (value & ~segment);
      break;
  }
  is_in_range = mode == Shuffle::kUp ? source >= max_lane : source <= max_lane;
  return is_in_range ? source : me;
}

// What a kernel's directives demand of its launch. Every thread asks, the first one says.
inline void check_launch(std::uint32_t max_threads, std::uint32_t threads,
                         std::uint32_t shared_alignment) {
  const auto& size = cuda_emulator::block_dim();
  const std::uint32_t launched = size.x * size.y * size.z;
  const auto& index = cuda_emulator::thread_index();
  if (index.x != 0 || index.y != 0 || index.z != 0) return;
  if (max_threads != 0 && launched > max_threads) {
    cuda_emulator::report("more threads than .maxntid allows");
  }
  if (threads != 0 && launched != threads) {
    cuda_emulator::report("another number of threads than .reqntid");
  }
  if (cuda_emulator::shared_memory() % shared_alignment != 0) {
    cuda_emulator::report("shared memory is not aligned as its declaration says");
  }
}

}  // namespace ptx
}  // namespace
