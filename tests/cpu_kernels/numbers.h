// SPDX-License-Identifier: MIT
// The element types by arithmetic alone, to have nothing in common with the conversions under test.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "attention/params.h"
#include "memory.h"

using guide::ElementType;

struct Format {
  int bytes;
  int digits;        // of the significand, the leading one included
  int min_exponent;  // of the smallest normal number, 2^min_exponent
};

inline Format format_of(ElementType type) {
  switch (type) {
    case ElementType::kBFloat16:
      return {2, 8, -126};
    case ElementType::kFloat16:
      return {2, 11, -14};
    case ElementType::kBool:
      return {1, 1, 0};
    default:
      return {4, 24, -126};
  }
}

inline double epsilon_of(ElementType type) { return std::ldexp(1, 1 - format_of(type).digits); }

// The nearest number of a type, ties to even; infinite numbers stay so. Nothing here overflows.
inline double rounded_to(ElementType type, double number) {
  if (number == 0 || !std::isfinite(number)) return number;
  const Format format = format_of(type);
  const int exponent = std::max(std::ilogb(number), format.min_exponent);
  const double unit = std::ldexp(1, exponent + 1 - format.digits);
  return std::nearbyint(number / unit) * unit;
}

// Bits of a number that the type has.
inline std::uint16_t bits_of_half(ElementType type, double number) {
  const Format format = format_of(type);
  const std::uint32_t sign = std::signbit(number) ? 0x8000u : 0u;
  if (number == 0) return static_cast<std::uint16_t>(sign);
  if (std::isnan(number)) return 0x7fff;
  const int fraction_bits = format.digits - 1;
  if (std::isinf(number))
    return static_cast<std::uint16_t>(sign | (0x7fffu >> fraction_bits << fraction_bits));
  const int exponent = std::max(std::ilogb(number), format.min_exponent);
  const auto significand =
      static_cast<std::uint32_t>(std::ldexp(std::fabs(number), fraction_bits - exponent));
  // A normal number's leading one adds itself to the exponent's field.
  const auto field = static_cast<std::uint32_t>(exponent - format.min_exponent);
  return static_cast<std::uint16_t>(sign | ((field << fraction_bits) + significand));
}

inline double number_of_half(ElementType type, std::uint16_t bits) {
  const Format format = format_of(type);
  const int fraction_bits = format.digits - 1;
  const int field = (bits & 0x7fff) >> fraction_bits;
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (field == (1 << (15 - fraction_bits)) - 1) {
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  }
  const int significand = field == 0 ? fraction : fraction + (1 << fraction_bits);
  return sign * std::ldexp(significand,
                           format.min_exponent + (field == 0 ? 0 : field - 1) - fraction_bits);
}

// Numbers of an element type, in guarded memory.
class Array {
 public:
  Array() : Array(ElementType::kFloat32, 0) {}
  Array(ElementType type, std::size_t count)
      : type_(type),
        count_(count),
        bytes_(count * static_cast<std::size_t>(format_of(type).bytes)) {}
  Array(ElementType type, const std::vector<double>& numbers) : Array(type, numbers.size()) {
    for (std::size_t i = 0; i < count_; ++i) set(i, numbers[i]);
  }

  // The rounded number.
  void set(std::size_t i, double number) {
    const double rounded = rounded_to(type_, number);
    if (type_ == ElementType::kFloat32) {
      const auto value = static_cast<float>(rounded);
      std::memcpy(at(i), &value, sizeof(value));
    } else {
      const std::uint16_t bits = bits_of_half(type_, rounded);
      std::memcpy(at(i), &bits, sizeof(bits));
    }
  }

  double operator[](std::size_t i) const {
    if (type_ == ElementType::kFloat32) {
      float value;
      std::memcpy(&value, at(i), sizeof(value));
      return value;
    }
    std::uint16_t bits;
    std::memcpy(&bits, at(i), sizeof(bits));
    return number_of_half(type_, bits);
  }

  std::vector<double> numbers() const {
    std::vector<double> result(count_);
    for (std::size_t i = 0; i < count_; ++i) result[i] = (*this)[i];
    return result;
  }

  bool has_bits_of(const Array& other) const {
    return count_ == other.count_ && std::memcmp(data(), other.data(), size_bytes()) == 0;
  }

  void* data() const { return bytes_.data(); }
  float* floats() const { return static_cast<float*>(data()); }
  ElementType type() const { return type_; }
  std::size_t count() const { return count_; }

 private:
  std::size_t size_bytes() const {
    return count_ * static_cast<std::size_t>(format_of(type_).bytes);
  }
  std::byte* at(std::size_t i) const {
    return static_cast<std::byte*>(data()) + i * static_cast<std::size_t>(format_of(type_).bytes);
  }

  ElementType type_;
  std::size_t count_;
  GuardedBytes bytes_;
};
