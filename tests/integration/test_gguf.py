# SPDX-License-Identifier: MIT
"""GGUF files: the same model as its safetensors, and what is wrong with a bad one."""

import shutil
import struct

import gguf
import pytest
import torch
from gguf_files import TOKENS, tiny_llama, write_gguf
from tolerance import MODEL_LOGITS

from guide_ext import integration as guide
from guide_ext.integration import checkpoint
from guide_ext.integration.gguf import readable_architectures
from guide_ext.support import extras

TEXT = "Read the <!!->other<-!!> book."


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a file, and the model that it was made of."""
    torch.manual_seed(0)
    model = tiny_llama()
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", model), model


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_is_the_model_that_it_was_made_of(tmp_path, tied):
    original = tiny_llama(tie_word_embeddings=tied)
    original.save_pretrained(tmp_path / "saved")
    file = write_gguf(tmp_path / "tiny.gguf", original)
    state = torch.get_rng_state()
    model, tokenizer = guide.load(str(file), device="cpu")
    assert torch.equal(torch.get_rng_state(), state)  # the caller's numbers are not used up
    tokenizer.save_pretrained(tmp_path / "saved")
    assert guide.is_enabled(model)
    assert model.dtype is torch.float32
    assert tokenizer.convert_ids_to_tokens(tokenizer("of the")["input_ids"]) == ["o", "f", "Ġthe"]
    assert tokenizer.padding_side == "left"
    assert tokenizer.eos_token == TOKENS[-1]
    same, _ = guide.load(str(tmp_path / "saved"), device="cpu")
    inputs = guide.encode(model, tokenizer, TEXT, delta=2.0)
    with torch.no_grad():
        found, expected, plain = (
            model(**inputs).logits, same(**inputs).logits, original(inputs["input_ids"]).logits
        )  # fmt: skip
    assert (found - expected).abs().max() <= MODEL_LOGITS * expected.abs().max()
    assert (found - plain).abs().max() > 0.01  # and it is steered


def test_the_result_is_an_ordinary_model(made, tmp_path):
    file, _ = made
    model, tokenizer = guide.load(str(file), device="cpu", steerable=False)
    assert getattr(model.config, "quantization_config", None) is None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = guide.load(str(tmp_path), device="cpu", steerable=False)
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_a_stated_dtype_is_obeyed(made, dtype):
    model, _ = guide.load(str(made[0]), dtype=dtype, device="cpu")
    assert {weight.dtype for weight in model.parameters()} == {getattr(torch, dtype)}
    assert model.config.dtype is getattr(torch, dtype)


def test_quantised_weights_are_the_numbers_that_the_file_means(tmp_path):
    original, kind = tiny_llama(), gguf.GGMLQuantizationType.Q8_0
    model, _ = guide.load(str(write_gguf(tmp_path / "q.gguf", original, kind=kind)), device="cpu")
    weight = original.model.layers[1].mlp.up_proj.weight.detach().numpy()
    meant = torch.from_numpy(gguf.dequantize(gguf.quantize(weight, kind), kind))
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, meant)


def test_a_folder_with_one_file_is_that_file(made, tmp_path):
    shutil.copy(made[0], tmp_path / "any name.gguf")
    (tmp_path / "README.md").write_text("a model")
    assert guide.load(str(tmp_path), device="cpu")[0].config.hidden_size == 32
    shutil.copy(made[0], tmp_path / "b.gguf")
    with pytest.raises(OSError, match=r"with 2: any name\.gguf, b\.gguf; name one of them"):
        guide.load(str(tmp_path))
    made[1].save_pretrained(tmp_path)  # a checkpoint folder: the files beside it do not count
    with pytest.raises(FileNotFoundError, match="with a tokenizer, got"):
        guide.load(str(tmp_path))


def _cut(size):
    return lambda content: content[:size]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda content: b"PK\3\4" + content[4:], "which holds something else$"),
        (lambda content: b"", "which holds something else$"),
        (_cut(-100), r"must be a whole GGUF file, got '.*' with \d+ of \d+ bytes$"),
        (_cut(1000), "must be a whole GGUF file, got '.*', whose header is cut off after 1000"),
        (_cut(10), "whose header is cut off after 10 bytes$"),
        (
            lambda c: c[:4] + struct.pack("<I", 9) + c[8:],
            "of version 2 or 3, got '.*' of version 9",
        ),
        (lambda c: c[:16] + b"\xff" * 8 + c[24:], "whose header is cut off"),
        (lambda c: c[:24] + b"\xff" * 8 + c[32:], "whose header is cut off"),
        (lambda c: c.replace(b"general.architecture", b"general.orchitecture"), "its architecture"),
    ],
)
def test_a_damaged_file_is_told_in_a_sentence(made, tmp_path, change, expected):
    file = tmp_path / "bad.gguf"
    file.write_bytes(change(made[0].read_bytes()))
    for load in (guide.load, guide.load_tokenizer):
        with pytest.raises(OSError, match=expected) as caught:
            load(str(file))
        assert "\n" not in str(caught.value)
        assert str(file) in str(caught.value)


def test_an_unknown_architecture_is_named_with_those_that_are_known(tmp_path):
    file = write_gguf(tmp_path / "odd.gguf", tiny_llama(), architecture="rwkv99")
    with pytest.raises(OSError, match=r"odd\.gguf' of the architecture 'rwkv99'; it reads .*llama"):
        guide.load(str(file))
    assert {"llama", "qwen2", "gemma3"} <= set(readable_architectures())


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"scaling": True}, "with the scaling 'yarn', which transformers drops for 'llama'"),
        ({"more": ("rope_freqs.weight",)}, r"with the scaling 'rope_freqs\.weight', which trans"),
        ({"more": ("blk.0.attn_v.bias",)}, r"with (\d+) numbers, for a model of \d+$"),
        ({"left_out": "blk.1.ffn_up.weight"}, "1 are missing, such as model.layers.1.mlp.up_proj"),
    ],
)
def test_what_would_be_dropped_or_made_up_is_an_error(tmp_path, how, expected):
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama(), **how)
    for name in (file, file.parent):
        with pytest.raises(OSError, match=expected) as caught:
            guide.load(str(name), device="cpu")
        assert str(caught.value).startswith("model must be a GGUF file ")
        assert f"got '{file}'" in str(caught.value)


def test_blocks_that_only_guess_ahead_are_left_out(tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama(), more=("blk.2.nextn.eh_proj.weight",))
    assert guide.load(str(file), device="cpu")[0].config.num_hidden_layers == 2


def test_names_that_mean_no_file(tmp_path, made):
    with pytest.raises(FileNotFoundError, match=r"must be a \.gguf file that exists, got 'a/b\.gg"):
        guide.load("a/b.gguf")  # not asked of a hub
    other = tmp_path / "model.bin"
    shutil.copy(made[0], other)
    with pytest.raises(NotADirectoryError, match=r"a \.gguf file, a hub id, .*got the file"):
        guide.load(str(other))


def test_the_bar_is_drawn_only_where_bars_are(made, capfd):
    guide.load(str(made[0]), device="cpu")
    assert "GGUF" in capfd.readouterr().err
    with checkpoint.without_bars():
        guide.load(str(made[0]), device="cpu")
    assert capfd.readouterr().err == ""


def test_without_its_package_a_command_is_named(made, monkeypatch):
    find = extras.importlib.import_module

    def hidden(name):
        if name == "gguf":
            raise ModuleNotFoundError("No module named 'gguf'", name="gguf")
        return find(name)

    monkeypatch.setattr(extras.importlib, "import_module", hidden)
    with pytest.raises(extras.MissingPackageError, match=r"pip install 'guide_ext\[gguf\]'$"):
        guide.load(str(made[0]))
