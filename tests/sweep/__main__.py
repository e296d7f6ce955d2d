# SPDX-License-Identifier: MIT
"""Sweep all causal types, or those that are named: ``python -m tests.sweep [TYPE ...]``."""

from __future__ import annotations

import logging
import sys
import warnings
from collections import Counter
from pathlib import Path

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "helpers")]

from sweep.build import build  # noqa: E402
from sweep.compare import Verdict, compare  # noqa: E402


def judge(model_type: str) -> Verdict:
    """Build and compare one type; what cannot be built small is a verdict, too."""
    try:
        model = build(model_type)
    except Exception as error:  # whatever an architecture says of the sizes that it was given
        return Verdict("not built", f"{type(error).__name__}: {error}")
    try:
        return compare(model)
    except Exception as error:
        return Verdict("fails", f"{type(error).__name__}: {error}")


def main(types: list[str]) -> int:
    """Print a line per type and the totals; 1 if any is wrong or fails."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    unknown = sorted(set(types) - set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    if unknown:
        print(f"TYPE must be a causal type of transformers, got {', '.join(unknown)}")
        return 2
    kinds: Counter[str] = Counter()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    for model_type in types or list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        verdict = judge(model_type)
        kinds[verdict.kind] += 1
        errors = " ".join(f"{name} {error:.0e}" for name, error in verdict.errors.items())
        influence = f"Influence {verdict.influence.split(':')[0]}" if verdict.influence else ""
        note = verdict.note.replace("\n", " ")[:160]
        parts = [part for part in (errors, influence, note) if part]
        print(f"{model_type:26} {verdict.kind:13} {'; '.join(parts)}", flush=True)
    print(", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    return 1 if kinds["WRONG"] or kinds["fails"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
