# SPDX-License-Identifier: MIT
"""Models whose heads are spread over two processes: what one process computes, in each of them."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import parallel_cases
import pytest
import torch
from models import HEADS, LAYERS, assert_logits_close, logits, make, marks, prompts
from parallel_cases import CASES, MODELS, PROCESSES
from tolerance import INFLUENCE, MODEL_LOGITS

import guide_ext
from guide_ext import integration as guide
from guide_ext.embedded import model_path
from guide_ext.integration.model.parallel import Heads

pytestmark = pytest.mark.long

# Of all that the processes do; collectives that wait for nobody fail before.
SECONDS = 120


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """What every process found: the cases of every model, by model and case."""
    folder = tmp_path_factory.mktemp("spread")
    for architecture in {architecture for architecture, _ in MODELS.values()}:
        make(architecture).save_pretrained(folder / architecture)
    (folder / "embedded").symlink_to(model_path())
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(guide_ext.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",  # a GPU would have to serve both
    }
    command = [sys.executable, str(Path(parallel_cases.__file__)), str(folder)]
    processes, codes, deadline = [], None, time.monotonic() + SECONDS
    for rank in range(PROCESSES):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
        with (folder / f"log_{rank}").open("w") as log:
            process = subprocess.Popen(
                [*command, str(rank)], env=environment | own, stdout=log, stderr=subprocess.STDOUT
            )
        processes.append(process)
    try:
        codes = [process.wait(max(0.0, deadline - time.monotonic())) for process in processes]
    except subprocess.TimeoutExpired:
        pass  # the logs tell more
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if codes != [0] * PROCESSES:
        logs = [(folder / f"log_{rank}").read_text()[-3000:] for rank in range(PROCESSES)]
        pytest.fail(f"the processes ended with {codes}:\n" + "\n---\n".join(logs))
    return [torch.load(folder / f"found_{rank}.pt") for rank in range(PROCESSES)]


@pytest.fixture(scope="module")
def alone():
    """The models in one process."""
    return {architecture: guide.enable(make(architecture)) for architecture, _ in MODELS.values()}


def assert_equal(found, wanted, kind):
    """Compare outcomes: whole numbers are equal, others within the tolerance of their kind."""
    assert found.keys() == wanted.keys(), found.get("error")
    for name, tensor in wanted.items():
        assert found[name].shape == tensor.shape, name
        if not tensor.is_floating_point():
            assert torch.equal(found[name], tensor), name
            continue
        largest = tensor.abs().max().item()  # heads of the exact form are weighed by norms
        allowed = MODEL_LOGITS * largest if kind == "steering" else INFLUENCE * max(1.0, largest)
        difference = (found[name] - tensor).abs().max().item()
        assert difference <= allowed, f"{name}: {difference:.2e}"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", MODELS)
def test_equal_to_one_process(spread, alone, name, case):
    wanted = CASES[case](alone[MODELS[name][0]])
    for found in spread:
        assert_equal(found[name, case], wanted, case)


@pytest.mark.parametrize("name", MODELS)
def test_processes_agree_to_the_bit(spread, name):
    one, other = spread
    for case in CASES:
        for key, tensor in one[name, case].items():
            assert torch.equal(tensor, other[name, case][key]), (case, key)


@pytest.mark.parametrize("name", MODELS)
def test_heads_are_spread(spread, name):
    """Else the other tests would show nothing."""
    here = (HEADS,) if name == "gathered" else (HEADS // 2, HEADS // 2)
    for found in spread:
        assert found[name, "parts"] == {"heads": [here] * LAYERS, "table": (LAYERS, HEADS)}


def test_one_graph(spread, alone):
    wanted = parallel_cases.one_graph(alone["llama"])
    assert wanted["graphs"] == 1
    for found in spread:
        assert_equal(found["llama", "one_graph"], wanted, "one_graph")


def test_uneven_parts():
    last = Heads((3, 3, 2), 2)
    assert (last.total, last.here) == (8, slice(6, 8))


def test_a_part_of_a_model_takes_a_bias_alone(spread, alone):
    """Nothing on the decoder without its head says where the other heads of attention are."""
    wanted = logits(alone["llama"], prompts(), guide_bias=marks())
    for found in spread:
        assert_logits_close(found["llama", "part_of_a_model"]["bias"], wanted)
        for what in ("influence", "strength"):
            assert re.search(
                r"ValueError: (Influence|guide_strength) must go to a model with all its layers "
                r"and heads, .* got 2 of 4 heads per layer, .* on the LlamaModel",
                found["llama", "part_of_a_model"][what],
            )


def test_sequence_parallelism_is_not_measured(spread, alone):
    even = {name: tensor[:, 1:] for name, tensor in parallel_cases.steered().items()}
    even["guide_strength"] = parallel_cases.steered()["guide_strength"]
    wanted = logits(alone["llama"], even)
    for found in spread:
        assert_logits_close(found["llama", "tokens_apart"]["strength"], wanted)
        assert re.search(
            r"UnsupportedModelError: Influence must see the same residual stream in every process, "
            r"got attention layer 0 of LlamaForCausalLM, which reads \[1, 4, 32\] here",
            found["llama", "tokens_apart"]["influence"],
        )


def test_pipeline_parallelism_takes_a_bias_alone(spread, alone):
    wanted = logits(alone["llama"], prompts(), guide_bias=marks())
    for stage, found in enumerate(spread, 1):
        assert_logits_close(found["llama", "layers_apart"]["bias"], wanted)
        for what in ("influence", "strength", "generate"):
            assert re.search(
                r"ValueError: (Influence|guide_strength) must go to a model with all its layers "
                rf"and heads, .* got stage {stage} of 2 of a pipeline",
                found["llama", "layers_apart"][what],
            )
        assert "must be steered without a cache" in found["llama", "layers_apart"]["cache"]


def test_calibration(spread):
    wanted = parallel_cases.calibration(guide.load_embedded(dtype="float32")[0])
    for found in spread:
        assert_equal(found["embedded", "calibration"], wanted, "calibration")


def test_encode_refuses_heads_of_a_part(spread):
    for found in spread:
        assert re.search(
            "guide_strength must go to .*, got 2 of 4 heads", found["embedded", "encode"]["heads"]
        )
        assert found["embedded", "encode"]["all"] == "no error"
