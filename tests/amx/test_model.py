# SPDX-License-Identifier: MIT
"""The model of AMX's tiles: what its instructions compute, and what they refuse."""

import ctypes
import math
import struct

import emulated_amx
import pytest
import torch
from emulated_op import CannotBuildError

NONE = [0] * 8
WHOLE = ([64] * 8, [16] * 8)
SMALLEST_NORMAL = 2.0**-126


class Model:
    """The instructions on the tiles of this thread; a fault is a RuntimeError."""

    def __init__(self, library):
        self._library = library

    def run(self, instruction, *operands):
        function = getattr(self._library, f"amx_emulator_{instruction}")
        function.restype = ctypes.c_char_p
        fault = function(*operands)
        if fault is not None:
            raise RuntimeError(fault.decode())

    def configure(self, bytes_of_row, rows, palette=1, start_row=0, reserved=0):
        fields = struct.pack("<BB14B8H16x8B8x", palette, start_row, reserved, *[0] * 13,
                             *bytes_of_row, *rows)  # fmt: skip
        self.run("ldtilecfg", fields)

    def configuration(self):
        memory = ctypes.create_string_buffer(64)
        self.run("sttilecfg", memory)
        return memory.raw

    def load(self, tile, rows, instruction="tileloadd"):
        self.run(instruction, tile, ctypes.c_void_p(rows.data_ptr()), _stride(rows))

    def store(self, tile, like):
        target = torch.full_like(like, 7)
        self.run("tilestored", tile, ctypes.c_void_p(target.data_ptr()), _stride(target))
        return target


def _stride(rows):
    return ctypes.c_int64(rows.stride(0) * rows.element_size())


@pytest.fixture
def model():
    try:
        path = emulated_amx.build()
    except CannotBuildError as reason:
        pytest.skip(str(reason))
    tiles = Model(ctypes.CDLL(str(path)))
    tiles.run("tilerelease")
    yield tiles
    tiles.run("tilerelease")


def _multiplied(model, total, left, right):
    """Run TDPBF16PS on whole tiles: [16, 16] += [16, 32] by [16, 16 pairs]."""
    model.configure(*WHOLE)
    model.load(0, total)
    model.load(1, left)
    model.load(2, right)
    model.run("tdpbf16ps", 0, 1, 2)
    return model.store(0, total)


def _pairs(right):
    """[32, columns] to rows of pairs, [16, 2 columns]: the layout of the second operand."""
    return right.reshape(16, 2, -1).transpose(1, 2).reshape(16, -1).contiguous()


# ---- products


def test_integers_multiply_exactly(model):
    left = torch.randint(-8, 9, (16, 32)).bfloat16()
    right = torch.randint(-8, 9, (32, 16)).bfloat16()
    total = torch.randint(-8, 9, (16, 16)).float()
    product = _multiplied(model, total, left, _pairs(right))
    assert product.equal(total + left.float() @ right.float())


def test_sums_are_rounded_as_documented(model):
    """Even and odd products apart, each by fused multiply-adds in order, then together, then C."""
    left, right = torch.randn(16, 32).bfloat16(), torch.randn(32, 16).bfloat16()
    total = torch.randn(16, 16)

    def fused(sum_of_half, k):
        product = left[:, k, None].double() * right[k].double()  # exact, and so is most of the sum
        return (product + sum_of_half.double()).float()

    halves = [torch.zeros(16, 16), torch.zeros(16, 16)]
    for k in range(32):
        halves[k % 2] = fused(halves[k % 2], k)
    expected = total + (halves[0] + halves[1])
    assert _multiplied(model, total, left, _pairs(right)).equal(expected)
    in_one_sum = total.clone()
    for k in range(32):
        in_one_sum = fused(in_one_sum, k)
    assert not expected.equal(in_one_sum)  # the order is one that shows


@pytest.mark.parametrize(
    ("total", "left", "right", "expected"),
    [
        (0.0, 2.0**-127, 2.0**10, 0.0),  # a denormal factor
        (0.0, 2.0**10, 2.0**-127, 0.0),
        (2.0**-127, 0.0, 1.0, 0.0),  # a denormal total
        (2.0**-127, 2.0**-63, 2.0**-63, SMALLEST_NORMAL),
        (0.0, 2.0**-64, 2.0**-63, 0.0),  # a denormal product
        (0.0, 2.0**-63, 2.0**-63, SMALLEST_NORMAL),
        (1.0, 2.0**-25, 1.0, 1.0),  # ties to even
        (1.0 + 2.0**-23, 2.0**-24, 1.0, 1.0 + 2.0**-22),
        (0.0, math.inf, 1.0, math.inf),
        (0.0, math.inf, 0.0, math.nan),
        (math.nan, 0.0, 0.0, math.nan),
        (0.0, 3e38, 3e38, math.inf),
    ],
)
def test_denormal_infinite_and_rounded_numbers(model, total, left, right, expected):
    lefts, rights = torch.zeros(16, 32).bfloat16(), torch.zeros(16, 32).bfloat16()
    lefts[3, 4], rights[2, 10] = left, right  # word 2: its first half meets column 5
    totals = torch.zeros(16, 16)
    totals[3, 5] = total
    found = _multiplied(model, totals, lefts, rights)[3, 5].item()
    assert found == expected or (math.isnan(found) and math.isnan(expected))


def test_a_product_beyond_float32_is_added_before_it_is_rounded(model):
    left, right = torch.zeros(16, 32).bfloat16(), torch.zeros(32, 16).bfloat16()
    left[0, 0], right[0, 0] = -(2.0**64), 2.0**63
    left[0, 2], right[2, 0] = 2.0**64, 2.0**64
    assert _multiplied(model, torch.zeros(16, 16), left, _pairs(right))[0, 0] == 2.0**127


def test_a_denormal_sum_counts_as_zero_at_every_step(model):
    left, right = torch.zeros(16, 32).bfloat16(), torch.zeros(32, 16).bfloat16()
    left[0, 0], right[0, 0] = 2.0**-64, 2.0**-63
    left[0, 2], right[2, 0] = 2.0**-63, 2.0**-63
    total = torch.zeros(16, 16)
    assert _multiplied(model, total, left, _pairs(right))[0, 0] == SMALLEST_NORMAL


def test_small_tiles_multiply_and_clear_the_rest(model):
    # 3 x 4 by 4 x 5, in pairs: rows and bytes of C, A, B.
    model.configure([20, 8, 20, *[0] * 5], [3, 3, 2, *[0] * 5])
    left, right = torch.randn(3, 4).bfloat16(), torch.randn(4, 5).bfloat16()
    model.load(1, left)
    model.load(2, right.reshape(2, 2, 5).transpose(1, 2).reshape(2, 10).contiguous())
    model.run("tdpbf16ps", 0, 1, 2)
    torch.testing.assert_close(model.store(0, torch.zeros(3, 5)), left.float() @ right.float())


# ---- memory


@pytest.mark.parametrize("instruction", ["tileloadd", "tileloaddt1"])
def test_rows_have_a_stride_and_a_width(model, instruction):
    model.configure([24, *NONE[1:]], [5, *NONE[1:]])
    wide = torch.arange(5 * 9, dtype=torch.float32).view(5, 9)
    model.load(0, wide, instruction)
    stored = model.store(0, wide)
    assert stored[:, :6].equal(wide[:, :6])
    assert stored[:, 6:].eq(7).all()  # untouched


def test_zero_and_a_new_configuration_clear_tiles(model):
    ones, zeros = torch.ones(16, 16), torch.zeros(16, 16)
    model.configure(*WHOLE)
    model.load(0, ones)
    model.load(1, ones)
    model.run("tilezero", 0)
    assert model.store(0, ones).equal(zeros)
    assert model.store(1, ones).equal(ones)
    model.configure(*WHOLE)
    assert model.store(1, ones).equal(zeros)


def test_the_configuration_is_stored_as_it_was_loaded(model):
    assert model.configuration() == bytes(64)
    model.configure([20, 8, 20, *[0] * 5], [3, 3, 2, *[0] * 5])
    stored = model.configuration()
    assert (stored[0], stored[16:22], stored[48:51]) == (1, b"\x14\0\x08\0\x14\0", b"\3\3\2")
    model.run("tilerelease")
    assert model.configuration() == bytes(64)


# ---- faults


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"palette": 2}, "palette 2"),
        ({"reserved": 1}, "a reserved byte is not 0"),
        ({"rows": [17, *[16] * 7]}, "tile 0 has more than 16 rows"),
        ({"bytes_of_row": [*[64] * 7, 68]}, "tile 7 has more than 64 bytes"),
        ({"rows": [0, *[16] * 7]}, "tile 0 has rows or bytes of 0"),
    ],
)
def test_wrong_configurations_fault(model, changes, words):
    whole = {"bytes_of_row": WHOLE[0], "rows": WHOLE[1]}
    with pytest.raises(RuntimeError, match=f"ldtilecfg: {words}"):
        model.configure(**(whole | changes))


@pytest.mark.parametrize("instruction", ["tilezero", "tileloadd", "tilestored", "tdpbf16ps"])
@pytest.mark.parametrize("state", ["never configured", "released", "palette 0"])
def test_tiles_cannot_be_used_without_a_configuration(model, instruction, state):
    if state != "never configured":
        model.configure(*WHOLE)
    if state == "released":
        model.run("tilerelease")
    elif state == "palette 0":
        model.configure(NONE, NONE, palette=0)
    memory = ctypes.create_string_buffer(1024)
    operands = {"tilezero": (0,), "tdpbf16ps": (0, 1, 2)}.get(instruction, (0, memory, 64))
    with pytest.raises(RuntimeError, match=f"{instruction}: no tiles are configured"):
        model.run(instruction, *operands)


def test_a_tile_without_rows_and_one_that_does_not_exist_fault(model):
    model.configure([64, *NONE[1:]], [16, *NONE[1:]])
    with pytest.raises(RuntimeError, match="tilezero: tile 1 is not configured"):
        model.run("tilezero", 1)
    with pytest.raises(RuntimeError, match="tilezero: there is no such tile"):
        model.run("tilezero", 8)


@pytest.mark.parametrize(
    ("bytes_of_row", "rows", "operands", "words"),
    [
        (*WHOLE, (0, 0, 1), "two operands are the same tile"),
        (*WHOLE, (0, 1, 1), "two operands are the same tile"),
        ([64, 64, 64], [16, 15, 16], (0, 1, 2), "the shapes do not fit"),
        ([64, 60, 64], [16, 16, 16], (0, 1, 2), "the shapes do not fit"),
        ([64, 64, 60], [16, 16, 16], (0, 1, 2), "the shapes do not fit"),
        ([62, 64, 62], [16, 16, 16], (0, 1, 2), "no whole number of words"),
    ],
)
def test_products_of_other_shapes_fault(model, bytes_of_row, rows, operands, words):
    model.configure([*bytes_of_row, *NONE][:8], [*rows, *NONE][:8])
    with pytest.raises(RuntimeError, match=f"tdpbf16ps: .*{words}"):
        model.run("tdpbf16ps", *operands)


def test_an_interrupted_transfer_goes_on_at_its_row(model):
    model.configure(*WHOLE, start_row=14)
    model.load(0, torch.ones(16, 16))
    stored = model.store(0, torch.ones(16, 16))
    assert stored[:14].eq(0).all()
    assert stored[14:].eq(1).all()
    model.configure(*WHOLE, start_row=14)
    with pytest.raises(RuntimeError, match="start_row is not 0"):
        model.run("tdpbf16ps", 0, 1, 2)
