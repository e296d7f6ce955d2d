# SPDX-License-Identifier: MIT
"""Loading checkpoints: the dtype that suits the processor, and what is wrong with a broken one."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from guide_ext import integration as guide
from guide_ext.cli import app
from guide_ext.machine import processor
from guide_ext.machine.processor import this_processor, why_slow

SOURCE = Path(str(files("guide_ext").joinpath("embedded", "model")))
X86 = {"architecture": "x86_64", "avx2": True}
ARM = {"architecture": "arm64", "neon": True}
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(
    ("capabilities", "slow"),
    [
        (X86, {BF16, FP16}),
        (X86 | {"avx512_f": True, "avx512_vnni": True}, {BF16, FP16}),
        (X86 | {"avx512_bf16": True}, {FP16}),
        (X86 | {"avx512_bf16": False, "avx512_fp16": False}, {BF16, FP16}),
        (X86 | {"amx_bf16": True}, {FP16}),
        (X86 | {"avx512_bf16": True, "avx512_fp16": True}, set()),
        (X86 | {"avx512_bf16": True, "amx_fp16": True}, set()),
        (X86 | {"architecture": "AMD64"}, {BF16, FP16}),
        (ARM, {BF16, FP16}),
        (ARM | {"bf16": True}, {FP16}),
        (ARM | {"architecture": "aarch64", "bf16": True, "fp16_arith": True}, set()),
        (ARM | {"asimdhp": True}, {BF16}),
        ({"architecture": "riscv64"}, set()),  # nothing is known
        ({}, set()),
    ],
)
def test_a_dtype_is_slow_where_its_instructions_are_missing(capabilities, slow):
    found = {
        dtype for dtype in (BF16, FP16, FP32, torch.float64) if why_slow(dtype, capabilities, {})
    }
    assert found == slow


@pytest.mark.parametrize(
    ("cap", "slow"),
    [
        ("AVX2", {BF16, FP16}),
        ("avx512_core", {BF16, FP16}),
        ("AVX512_CORE_VNNI", {BF16, FP16}),
        ("AVX512_CORE_BF16", {FP16}),
        ("AVX512_CORE_FP16", set()),
        ("AVX512_CORE_AMX", set()),
        ("ALL", set()),
        ("", set()),
    ],
)
def test_a_cap_of_the_environment_is_as_good_as_a_missing_instruction(cap, slow):
    able = X86 | {"avx512_bf16": True, "avx512_fp16": True}
    for variable in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        reasons = {dtype: why_slow(dtype, able, {variable: cap}) for dtype in (BF16, FP16)}
        assert {dtype for dtype, reason in reasons.items() if reason} == slow
        assert all(f"{variable}={cap}" in reasons[dtype] for dtype in slow)
    # The first one counts, as in oneDNN.
    assert not why_slow(BF16, able, {"ONEDNN_MAX_CPU_ISA": "ALL", "DNNL_MAX_CPU_ISA": "AVX2"})


def test_linux_and_torch_know_the_same_of_this_processor():
    if not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("this torch tells nothing")
    linux, from_torch = processor._from_linux(), this_processor()
    if linux.get("architecture") != "x86_64":
        pytest.skip("other names on other processors")
    for name in ("avx2", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16"):
        assert bool(linux.get(name)) == bool(from_torch.get(name)), name


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Return the same model in three dtypes, and with configurations that do not name them."""
    found = {}
    for name in ("bfloat16", "float16", "float32"):
        folder = found[name] = tmp_path_factory.mktemp(name)
        model = AutoModelForCausalLM.from_pretrained(SOURCE, dtype=name)
        model.save_pretrained(folder)
        for file in SOURCE.glob("*token*"):
            shutil.copy(file, folder)
        silent = found[f"{name}, not in config.json"] = tmp_path_factory.mktemp(f"{name}_silent")
        shutil.copytree(folder, silent, dirs_exist_ok=True)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert config.pop("dtype") == name
        (silent / "config.json").write_text(json.dumps(config))
    return found


@pytest.mark.parametrize("silent", ["", ", not in config.json"])
@pytest.mark.parametrize(
    ("capable_of", "name", "expected"),
    [
        ((), "bfloat16", FP32),
        ((), "float16", FP32),
        ((), "float32", FP32),
        (("avx512_bf16",), "bfloat16", BF16),
        (("avx512_bf16",), "float16", FP32),
        (("avx512_fp16",), "float16", FP16),
        (("avx512_fp16",), "bfloat16", FP32),
    ],
)
def test_auto_is_the_dtype_that_the_processor_is_fast_in(
    stored, monkeypatch, silent, capable_of, name, expected
):
    monkeypatch.setattr(processor, "this_processor", lambda: X86 | dict.fromkeys(capable_of, True))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    model, _ = guide.load(str(stored[name + silent]), device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert model.config.dtype == expected


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("stated", ["bfloat16", "float16", "float32"])
def test_a_stated_dtype_is_obeyed(stored, monkeypatch, name, stated):
    monkeypatch.setattr(processor, "this_processor", lambda: X86)
    model, _ = guide.load(str(stored[name]), dtype=stated, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, stated)}


def test_the_command_line_answers_in_the_dtype_that_doctor_names(stored, monkeypatch):
    monkeypatch.setattr(processor, "this_processor", lambda: X86)
    record = json.loads(CliRunner().invoke(app.app, ["doctor", "--json"]).stdout)
    reason = "float32, because this processor has no instructions for float16 products"
    assert record["auto_dtypes"]["float16"].startswith(reason)
    assert record["auto_dtypes"]["bfloat16"].startswith("float32, because")
    seen = []
    complete = guide.complete
    monkeypatch.setattr(
        guide,
        "complete",
        lambda model, *a, **k: (seen.append(model.dtype), complete(model, *a, **k))[1],
    )
    arguments = ["generate", "<!!->hi<-!!>", "--max-new-tokens", "1", "--device", "cpu"]
    for extra in ([], ["--dtype", "float16"]):
        result = CliRunner().invoke(app.app, [*arguments, "-m", str(stored["float16"]), *extra])
        assert result.exit_code == 0, result.output
    assert seen == [FP32, FP16]


def _without(name):
    return lambda folder: (folder / name).unlink()


def _with(name, text):
    return lambda folder: (folder / name).write_text(text)


def _changed(**values):
    def change(folder):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | values))

    return change


def _cut_off(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def _bare(folder):
    for path in folder.glob("*token*"):
        path.unlink()


@pytest.mark.parametrize(
    ("breaks", "error", "expected"),
    [
        (
            _without("config.json"),
            FileNotFoundError,
            "which has no config.json; save a model there",
        ),
        (_without("model.safetensors"), OSError, "whose weights cannot be read: "),
        (_bare, FileNotFoundError, "which has none .no tokenizer.json or the like.; save one"),
        (_with("config.json", "{"), OSError, "whose tokenizer cannot be read: .*JSON"),
        (_with("tokenizer.json", "{"), OSError, "whose tokenizer cannot be read: "),
        (_cut_off, OSError, "whose weights cannot be read: SafetensorError: "),
        (
            _changed(model_type="vit", architectures=None),
            ValueError,
            "whose model type 'vit' is none",
        ),
        (
            _changed(model_type="unheard_of"),
            OSError,
            "whose configuration cannot be read: .*unheard",
        ),
        (
            _changed(num_hidden_layers=6),
            OSError,
            "in which 18 are missing, such as model.layers.4.",
        ),
        (
            _changed(intermediate_size=64),
            OSError,
            "in which 12 have others, such as model.layers.0",
        ),
    ],
)
def test_a_broken_checkpoint_is_told_in_a_sentence(tmp_path, breaks, error, expected):
    folder = tmp_path / "model"
    shutil.copytree(SOURCE, folder)
    breaks(folder)
    with pytest.raises(error, match=expected) as caught:
        guide.load(str(folder), device="cpu")
    assert str(caught.value).startswith("model must be a checkpoint folder or a hub id")
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["", "./none", "/none", "no/such/folder", "none/"])
def test_what_no_hub_can_have_is_not_asked_for(name):
    for load in (guide.load, guide.load_tokenizer):
        with pytest.raises(FileNotFoundError, match=f"got '{name}': there is no such folder"):
            load(name)
