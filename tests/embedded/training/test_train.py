# SPDX-License-Identifier: MIT
"""Training of the embedded model: repeated, interrupted, and as a command."""

import json
import random

import pytest
import torch
from embedded_cases import TINY
from tokenizers import Tokenizer

from guide_ext.embedded.training import train
from guide_ext.embedded.training.lean_engine import LeanEngine
from guide_ext.embedded.training.tokenizer import EOS_ID
from guide_ext.embedded.training.train import Trainer, TrainingConfig

TINY_RUN = TrainingConfig(seed=3, tokens=6000, batch_tokens=256, log_every=2, network=TINY)


class TestTraining:
    def run(self, tokenizer: Tokenizer, config: TrainingConfig = TINY_RUN) -> Trainer:
        trainer = Trainer(config, tokenizer)
        while not trainer.finished:
            trainer.train_step()
        return trainer

    def test_a_seed_determines_the_weights(self, tokenizer):
        first, again = self.run(tokenizer), self.run(tokenizer)
        other = self.run(tokenizer, TrainingConfig(**(vars(TINY_RUN) | {"seed": 4})))
        weights = [t.network.state_dict() for t in (first, again, other)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        assert not torch.equal(*(w["embedding.weight"] for w in (weights[0], weights[2])))

    def test_an_interrupted_run_ends_as_an_uninterrupted_one(
        self, tokenizer, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(train, "train_tokenizer", lambda: tokenizer)
        train.train(TINY_RUN, tmp_path / "whole", quiet=True)
        train_step = Trainer.train_step

        def interrupted(trainer):
            if trainer.step == 5:
                raise KeyboardInterrupt
            return train_step(trainer)

        monkeypatch.setattr(Trainer, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train.train(TINY_RUN, tmp_path / "resumed", checkpoint_every=3, quiet=True)
        monkeypatch.setattr(Trainer, "train_step", train_step)
        assert [path.name for path in (tmp_path / "resumed").iterdir()] == ["checkpoint.pt"]
        train.train(TINY_RUN, tmp_path / "resumed", quiet=True)
        weights, resumed = (
            (tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "resumed")
        )
        assert weights == resumed
        logs = [
            [
                (entry["step"], entry["tokens"], entry["loss"])
                for entry in json.loads((tmp_path / name / "training.json").read_text())["log"]
            ]
            for name in ("whole", "resumed")
        ]
        assert logs[0] == logs[1]
        assert not (tmp_path / "resumed" / "checkpoint.pt").exists()

    def test_a_checkpoint_of_another_run_is_refused(self, tokenizer, tmp_path):
        Trainer(TINY_RUN, tokenizer).save(tmp_path / "checkpoint.pt")
        other = Trainer(TrainingConfig(**(vars(TINY_RUN) | {"seed": 4})), tokenizer)
        with pytest.raises(ValueError, match="must be a checkpoint of this run"):
            other.load(tmp_path / "checkpoint.pt")

    @pytest.mark.parametrize("option", ["--tokens", "--threads"])
    def test_bad_arguments_exit_with_code_2(self, option, tmp_path, capsys):
        with pytest.raises(SystemExit) as stopped:
            train.main(["--out", str(tmp_path), option, "0"])
        assert stopped.value.code == 2
        assert f"{option}: must be at least 1, got 0" in capsys.readouterr().err

    def test_only_answers_are_learnt(self, tokenizer):
        batch = train.encode_batch(tokenizer, random.Random(0), 0.5, 512)
        flat = batch.input_ids.flatten()
        assert torch.equal(flat[batch.positions + 1], batch.targets)
        assert (batch.targets == EOS_ID).sum() == len(batch.input_ids)
        closing = tokenizer.token_to_id("[/INST]")
        assert (flat[batch.positions] == closing).sum() == len(batch.input_ids)

    def test_it_learns(self, tokenizer):
        config = TrainingConfig(**(vars(TINY_RUN) | {"tokens": 40_000, "warmup_steps": 10}))
        log = self.run(tokenizer, config).log
        assert log[-1]["loss"] < log[0]["loss"] - 1

    def test_the_command_writes_a_whole_model(self, tmp_path, monkeypatch, restored_threads):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
        train.main(["--seed", "9", "--tokens", "2500", "--out", str(tmp_path / "model")])
        names = {path.name for path in (tmp_path / "model").iterdir()}
        assert names == {
            *("config.json", "generation_config.json", "model.safetensors", "training.json"),
            *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        }
        training = json.loads((tmp_path / "model" / "training.json").read_text())
        assert training["arguments"]["seed"] == 9
        assert training["log"][-1]["tokens"] == training["tokens"] >= 2500
        answers = LeanEngine.from_folder(tmp_path / "model")(["<!!->Summarize<-!!>\nThe queen."], 1)
        assert len(answers) == 1
