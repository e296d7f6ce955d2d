# SPDX-License-Identifier: MIT
"""``guide-ext harness``: lm-evaluation-harness with the model ``guide``."""

from __future__ import annotations

import sys

import typer


def harness(context: typer.Context) -> None:
    """Run lm-evaluation-harness on a steered model; tags in its tasks' prompts act.

    All arguments go to the command lm_eval, which has one more model here, 'guide':

    [bold]guide-ext harness --model guide --model_args pretrained=MODEL,delta=2 --tasks TASK[/bold]

    Its arguments: delta (of a level-2 mark), layers (such as 0+3+7) or heads (a file of 'study
    heads'), and those of the model 'hf'. [bold]guide-ext harness run --help[/bold] lists the rest.
    """
    from guide_ext.support.extras import require

    require("lm_eval", "to evaluate with it")
    from guide_ext.integration.harness import run_command

    run_command(sys.argv[0], context.args)
