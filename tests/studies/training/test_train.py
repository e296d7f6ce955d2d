# SPDX-License-Identifier: MIT
"""Supervised fine-tuning: short real trainings of the embedded model, killed, damaged, resumed."""

import dataclasses
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from guide_ext import integration as guide
from guide_ext.embedded import model_path
from guide_ext.embedded.evaluate import CaseKind
from guide_ext.integration import lora
from guide_ext.studies.training import checkpoints as sft_checkpoints
from guide_ext.studies.training import train as sft
from guide_ext.studies.training.data import embedded_examples, encode_example
from guide_ext.studies.training.settings import schedule
from guide_ext.studies.training.train import Example, SftSettings, Step, packed_loss

pytest.importorskip("peft")

MODEL = str(model_path())
SHORT = SftSettings(
    rank=4,
    learning_rate=3e-3,
    warmup_steps=2,
    epochs=2,
    batch_tokens=512,
    sequence_length=256,
    checkpoints=(0, 1000, 2000),
    activation_checkpointing=False,
)


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def tokenizer():
    return guide.load_tokenizer(MODEL)


@pytest.fixture(scope="module")
def examples(tokenizer) -> list[Example]:
    return embedded_examples(24, task=CaseKind.FRENCH, tokenizer=tokenizer)[:12]


@pytest.fixture(autouse=True)
def one_thread(restored_threads):
    torch.set_num_threads(1)


def train(examples, folder, settings=SHORT, on_step=None):
    return list(
        sft.train(MODEL, examples, settings, folder, device="cpu", dtype="float32", on_step=on_step)
    )


def adapters(folder: Path) -> dict[str, bytes]:
    return {
        path.parent.name: path.read_bytes() for path in folder.glob(f"tokens-*/{lora.WEIGHTS_FILE}")
    }


def kill_at(step: int):
    def on_step(done: Step) -> None:
        if done.index == step:
            raise KilledError

    return on_step


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, examples):
    """The checkpoints and steps of a whole run, in a folder that tests may copy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps: list[Step] = []
    folder = tmp_path_factory.mktemp("whole")
    checkpoints = train(examples, folder, on_step=steps.append)
    torch.set_num_threads(threads)
    return folder, checkpoints, steps


def test_paper_settings():
    paper = SftSettings.paper()
    assert (paper.rank, paper.alpha, paper.dropout, paper.epochs) == (64, 16, 0.05, 2)
    assert (paper.learning_rate, paper.warmup_steps) == (1e-4, 10)
    assert (paper.batch_tokens, paper.sequence_length) == (128 * 1024, 8192)
    embedded = SftSettings.embedded()
    same = ("rank", "alpha", "dropout", "epochs", "warmup_steps", "weight_decay")
    assert all(getattr(embedded, name) == getattr(paper, name) for name in same)
    assert embedded.sequence_length <= 512


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_tokens": 100}, "batch_tokens must be at least 256"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"checkpoints": (5, 5)}, "checkpoints must ascend"),
        ({"checkpoints": (-1, 5)}, "checkpoints must ascend"),
    ],
)
def test_wrong_settings(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SHORT, **change)


def test_schedule_warms_up_and_falls():
    shares = [schedule(step, 100, 10) for step in range(100)]
    assert shares[:10] == [pytest.approx((step + 1) / 10) for step in range(10)]
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[10] == 1.0
    assert 0 < shares[-1] < 0.01
    assert schedule(2, 3, 10) == pytest.approx(0.3)  # fewer steps than the warm-up


def test_checkpoints_and_loss(examples, tokenizer, uninterrupted):
    _, checkpoints, steps = uninterrupted
    assert [step.index for step in steps] == list(range(1, steps[0].steps + 1))
    tokens = [checkpoint.tokens for checkpoint in checkpoints]
    assert tokens[0] == 0
    assert 1000 <= tokens[1] < 1000 + SHORT.batch_tokens
    every = sum(len(encode_example(tokenizer, example)) for example in examples)
    assert tokens[-1] == steps[-1].tokens == SHORT.epochs * every
    assert tokens == sorted(set(tokens))
    assert checkpoints[0].loss is None
    assert checkpoints[-1].loss < 0.7 * steps[0].loss


def test_no_training_is_the_base_model(uninterrupted):
    base, _ = guide.load(MODEL, dtype="float32", device="cpu")
    adapted, _ = lora.load_adapted(MODEL, uninterrupted[1][0].path, dtype="float32", device="cpu")
    before, after = base.state_dict(), adapted.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


@pytest.mark.parametrize("step", [1, 3, 5])
def test_killed_and_resumed_is_uninterrupted(tmp_path, examples, uninterrupted, step):
    with pytest.raises(KilledError):
        train(examples, tmp_path, on_step=kill_at(step))
    assert adapters(tmp_path).keys() < adapters(uninterrupted[0]).keys()
    torch.rand(3)  # what others draw in between is of no account
    resumed: list[Step] = []
    checkpoints = train(examples, tmp_path, on_step=resumed.append)
    assert 1 <= resumed[0].index <= step
    assert adapters(tmp_path) == adapters(uninterrupted[0])
    losses = [checkpoint.loss for checkpoint in checkpoints]
    assert losses == [checkpoint.loss for checkpoint in uninterrupted[1]]


_CHILD = """
import os, signal, sys
from pathlib import Path
import torch
import test_train as tests
from guide_ext.embedded.evaluate import CaseKind
from guide_ext.studies.training.data import embedded_examples

def save(state, path, whole=torch.save):
    whole(state, path)
    if state["state"]:  # the second checkpoint: half of a file reaches the disk
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = save
torch.set_num_threads(1)
tokenizer = tests.guide.load_tokenizer(tests.MODEL)
examples = embedded_examples(24, task=CaseKind.FRENCH, tokenizer=tokenizer)[:12]
tests.train(examples, Path(sys.argv[1]))
"""


@pytest.mark.long
def test_sigkill_while_writing(tmp_path, examples, uninterrupted):
    paths = [str(Path(__file__).parent), str(Path(guide.__file__).parents[2])]
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([*paths, environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", _CHILD, str(tmp_path)]
    child = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert adapters(tmp_path).keys() == {"tokens-0000000000"}
    assert len(list(tmp_path.iterdir())) == 2  # the other is the unfinished one
    train(examples, tmp_path)
    assert adapters(tmp_path) == adapters(uninterrupted[0])
    assert len(list(tmp_path.iterdir())) == len(uninterrupted[1])


def test_killed_while_writing(tmp_path, examples, uninterrupted, monkeypatch):
    def dies(*_):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", dies)  # the adapter is written, the optimiser is not
        with pytest.raises(KilledError):
            train(examples, tmp_path)
    assert not adapters(tmp_path)
    (partial,) = tmp_path.iterdir()
    assert (partial / lora.WEIGHTS_FILE).exists()
    train(examples, tmp_path)
    assert not partial.exists()
    assert adapters(tmp_path) == adapters(uninterrupted[0])


def test_nothing_left_to_train_loads_no_model(examples, uninterrupted, monkeypatch):
    monkeypatch.setattr(guide, "load", None)
    folder, checkpoints, _ = uninterrupted
    assert train(examples, folder) == checkpoints


def damage_a_weight(path: Path) -> None:
    weights = bytearray((path / lora.WEIGHTS_FILE).read_bytes())
    weights[-5] ^= 1
    (path / lora.WEIGHTS_FILE).write_bytes(weights)


def lose_the_optimizer(path: Path) -> None:
    (path / "optimizer.pt").unlink()


def empty_the_record(path: Path) -> None:
    (path / sft_checkpoints.CHECKPOINT_FILE).write_text("")


@pytest.mark.parametrize("damage", [damage_a_weight, lose_the_optimizer, empty_the_record])
def test_damaged_checkpoint_is_trained_again(tmp_path, examples, uninterrupted, caplog, damage):
    folder, checkpoints, _ = uninterrupted
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / checkpoints[1].path.name)
    steps: list[Step] = []
    with caplog.at_level(logging.WARNING):
        train(examples, tmp_path, on_step=steps.append)
    assert f"{checkpoints[1].path.name} is damaged and is trained again" in caplog.text
    assert [step.index for step in steps] == list(range(1, checkpoints[1].steps + 1))
    assert adapters(tmp_path) == adapters(folder)


def test_what_lies_behind_a_damaged_checkpoint_is_kept(tmp_path, examples, uninterrupted):
    folder, checkpoints, _ = uninterrupted
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    _, second, third, last = checkpoints
    for checkpoint in (second, last):
        shutil.rmtree(tmp_path / checkpoint.path.name)
    steps: list[Step] = []
    train(examples, tmp_path, on_step=steps.append)
    trained = [*range(1, second.steps + 1), *range(third.steps + 1, last.steps + 1)]
    assert [step.index for step in steps] == trained
    assert adapters(tmp_path) == adapters(folder)


def test_dropout_differs_and_disturbs_nobody(tmp_path, examples, monkeypatch):
    seeds = set()

    def observed(model, row):
        seeds.add(torch.initial_seed())
        return packed_loss(model, row)

    monkeypatch.setattr(sft, "packed_loss", observed)
    before = torch.get_rng_state()
    with pytest.raises(KilledError):
        train(examples, tmp_path, on_step=kill_at(3))
    assert len(seeds) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_other_settings_are_refused(examples, uninterrupted):
    folder, _, _ = uninterrupted
    other = dataclasses.replace(SHORT, learning_rate=1e-3)
    with pytest.raises(ValueError, match=r"learning_rate 0\.003 there, 0\.001 here"):
        sft.train(MODEL, examples, other, folder, dtype="float32")
    with pytest.raises(ValueError, match=r"examples '\w+' there"):
        sft.train(MODEL, examples[1:], SHORT, folder, dtype="float32")
    with pytest.raises(ValueError, match="dtype 'float32' there, 'auto' here"):
        sft.train(MODEL, examples, SHORT, folder)


def test_the_embedded_model_may_have_moved(tmp_path, uninterrupted):
    """A run goes on in another installation, and after the folder of the model was moved."""
    folder = shutil.copytree(uninterrupted[0], tmp_path / "moved")
    for path in folder.glob(f"tokens-*/{sft_checkpoints.CHECKPOINT_FILE}"):
        record = json.loads(path.read_text(encoding="utf-8"))
        assert record["run"]["model"] == "embedded"
        record["run"]["model"] = "/elsewhere/guide_ext/experiments/embedded/model"
        path.write_text(json.dumps(record), encoding="utf-8")
    identity = record["run"]
    sft_checkpoints.check_identity(folder, identity | {"model": "embedded"})
    with pytest.raises(ValueError, match="model 'embedded' there, 'gpt2' here"):
        sft_checkpoints.check_identity(folder, identity | {"model": "gpt2"})


def test_too_long_examples(tmp_path, examples):
    tight = dataclasses.replace(SHORT, sequence_length=64)
    with pytest.raises(ValueError, match="at most sequence_length=64 tokens, got one of"):
        sft.train(MODEL, examples, tight, tmp_path)
    long = Example("word " * 1100, " answer")
    wide = dataclasses.replace(SHORT, sequence_length=4096, batch_tokens=4096)
    with pytest.raises(ValueError, match="the 1024 tokens whose positions the model knows"):
        next(sft.train(MODEL, [long], wide, tmp_path, device="cpu"))


def test_loss_that_is_not_finite_writes_nothing(tmp_path, examples, monkeypatch):
    monkeypatch.setattr(sft, "packed_loss", lambda model, row: packed_loss(model, row) * torch.nan)
    with pytest.raises(FloatingPointError, match="the loss must be finite, got nan"):
        train(examples, tmp_path)
    assert adapters(tmp_path).keys() == {"tokens-0000000000"}


def test_activation_checkpointing_changes_nothing(tmp_path, examples, uninterrupted):
    settings = dataclasses.replace(SHORT, activation_checkpointing=True)
    losses = []
    with pytest.raises(KilledError):
        train(
            examples, tmp_path, settings, lambda step: (losses.append(step.loss), kill_at(3)(step))
        )
    assert losses == [step.loss for step in uninterrupted[2][:3]]


def test_the_adapted_model_can_be_steered(uninterrupted, examples):
    adapted, tokenizer = lora.load_adapted(
        MODEL, uninterrupted[1][-1].path, dtype="float32", device="cpu"
    )
    assert guide.is_enabled(adapted)
    text = examples[-1].prompt[0]["content"]
    prompt = [{"role": "user", "content": text.replace("French", "<!!->French<-!!>")}]
    logits = [
        adapted(**guide.encode(adapted, tokenizer, prompt, delta=delta)).logits[0, -1]
        for delta in (0.0, 2.0)
    ]
    assert not torch.equal(*logits)
    assert guide.complete(adapted, tokenizer, [prompt], delta=2.0, max_new_tokens=4)[0]


def test_merging_computes_what_training_did(uninterrupted, tokenizer, examples):
    """The merged weights are W + alpha / rank · B A of the stored adapter."""
    path = uninterrupted[1][-1].path
    adapted, _ = lora.load_adapted(MODEL, path, dtype="float64", device="cpu", steerable=False)
    base, _ = guide.load(MODEL, dtype="float64", device="cpu", steerable=False)
    stored = load_file(path / lora.WEIGHTS_FILE)
    name = "model.layers.1.mlp.up_proj"
    a, b = (stored[f"base_model.model.{name}.lora_{part}.weight"].double() for part in ("A", "B"))
    change = adapted.get_submodule(name).weight - base.get_submodule(name).weight
    assert change.abs().max() > 0
    torch.testing.assert_close(change.float(), (SHORT.alpha / SHORT.rank * b @ a).float())
    assert json.loads((path / lora.CONFIG_FILE).read_text())["r"] == SHORT.rank


def test_adapter_of_another_model(tmp_path, uninterrupted):
    with pytest.raises(FileNotFoundError, match=r"got no adapter_config\.json there"):
        lora.load_adapted(MODEL, tmp_path)
    path = tmp_path / "cut"
    shutil.copytree(uninterrupted[1][0].path, path)
    config = json.loads((path / lora.CONFIG_FILE).read_text())
    (path / lora.CONFIG_FILE).write_text(json.dumps(config | {"r": 3}))
    with pytest.raises(ValueError, match="got one that does not fit"):
        lora.load_adapted(MODEL, path, device="cpu")


def test_without_peft(tmp_path, examples, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install 'guide_ext\[studies\]'"):
        train(examples, tmp_path)
