# SPDX-License-Identifier: MIT
"""Steered examples to train on, and a Trainer that takes one step of plain gradient descent."""

import inspect
from types import SimpleNamespace

import models
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from guide_ext.integration.call.arguments import STEERING_ARGUMENTS

LEFT = SimpleNamespace(padding_side="left", pad_token_id=0)
RIGHT = SimpleNamespace(padding_side="right", pad_token_id=0)
RATE = 0.5
LENGTHS = (9, 6, 7, 9)


def examples(lengths=LENGTHS, **columns):
    generator = torch.Generator().manual_seed(3)
    found = []
    for row, tokens in enumerate(lengths):
        ids = torch.randint(1, models.VOCABULARY, (tokens,), generator=generator).tolist()
        bias = [0.0] * tokens
        bias[row % 3] = 5.0
        bias[-2] = -1.0
        found.append({"input_ids": ids, "labels": [-100] * 3 + ids[3:], "guide_bias": bias})
    return [{**one, **columns} for one in found]


def trainer_of(model, rows, collator, tmp_path, **options):
    data = Dataset.from_list(rows)
    settings = {
        "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2,
        "gradient_accumulation_steps": 2, "max_steps": 1, "learning_rate": RATE, "optim": "sgd",
        "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "report_to": [], "use_cpu": True,
        "save_strategy": "no", "disable_tqdm": True, **options,
    }  # fmt: skip
    return Trainer(
        model,
        TrainingArguments(output_dir=str(tmp_path), **settings),
        train_dataset=data,
        eval_dataset=data,
        data_collator=collator,
    )


def names(model):
    """Tell whether a model's forward names the steering arguments: Trainer drops other columns."""
    return set(STEERING_ARGUMENTS) <= set(inspect.signature(model.forward).parameters)
