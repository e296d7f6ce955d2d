# SPDX-License-Identifier: MIT
"""What tests/integration/model/test_parallel.py does with a model, alone and in two processes.

Run as a script it is one of the two processes: ``parallel_cases.py FOLDER RANK`` loads the models
in FOLDER, each with its heads spread, and saves what every case gave.
"""

from __future__ import annotations

import copy
import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from influence_reference import TOKENS, seeds
from models import HEADS, LAYERS, Decoder, logits, marks, prompts, random_strength
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.distributed import DistributedConfig

from guide_ext import integration as guide
from guide_ext.influence.forms import FORMS, form_named
from guide_ext.integration.influence.hooks import requesting
from guide_ext.integration.influence.state import Request
from guide_ext.integration.model import verify
from guide_ext.integration.model.state import state_of
from guide_ext.steering.steering import Steering

PROCESSES = 2
# Of a collective that another process never joins.
PATIENCE = datetime.timedelta(seconds=30)
NEW = 5

# Plans that transformers does not have for these models. Heads that every process computes:
GATHERED = {
    "layers.*.self_attn.q_proj": "colwise_gather_output",
    "layers.*.self_attn.k_proj": "colwise_gather_output",
    "layers.*.self_attn.v_proj": "colwise_gather_output",
    "layers.*.self_attn.o_proj": "rowwise_split_input",
}
# By what a model is called here: its architecture, and its plan if not that of transformers.
MODELS: dict[str, tuple[str, Any]] = {
    "llama": ("llama", "auto"),
    "gemma2": ("gemma2", "auto"),
    "gathered": ("llama", {f"model.{name}": style for name, style in GATHERED.items()}),
}


def steered() -> dict[str, Tensor]:
    """A left-padded batch with a bias and a strength for every head."""
    return {**prompts(), "guide_bias": marks(), "guide_strength": random_strength()}


def parts(model: Any) -> dict[str, Any]:
    """How many heads each process computes, and how many strengths a model takes."""
    split = [layer.counts for layer in state_of(model).findings.heads]
    return {"heads": split, "table": guide.table_size(model)}


def steering(model: Any) -> dict[str, Tensor]:
    share = torch.where(marks() > 0, 0.4, 0.0)
    one_head = torch.zeros(2, LAYERS, HEADS)
    one_head[:, 1, HEADS - 1] = 4.0
    return {
        "plain": logits(model, prompts()),
        "bias": logits(model, prompts(), guide_bias=marks()),
        "strength": logits(model, steered()),
        "last head": logits(model, prompts(), guide_bias=marks(), guide_strength=one_head),
        "share": logits(model, prompts(), guide_share=share),
    }


def forms(model: Any) -> dict[str, Tensor]:
    inputs = {**steered(), "guide_seed": seeds()}
    return {form: guide.influence(model, inputs, form=form).values for form in FORMS}


def heads(model: Any) -> dict[str, Tensor]:
    found = {}
    for form in ("paper", "exact", "raw"):
        inputs = {**steered(), "guide_seed": seeds()}
        measured = guide.influence(model, inputs, form=form, by_head=True)
        found |= {form: measured.values, f"{form} by head": measured.by_head}
    return found


def generation(model: Any) -> dict[str, Tensor]:
    found = {}
    ways: dict[str, dict[str, Any]] = {
        "greedy": {},
        "chunks": {"prefill_chunk_size": 4},
        "static": {"cache_implementation": "static"},
        "beams": {"num_beams": 2, "num_return_sequences": 2},
        "exact": {"form": "exact"},
    }
    for way, options in ways.items():
        sequences, measured = guide.generate_with_influence(
            model, {**steered(), "guide_seed": seeds()}, max_new_tokens=NEW, **options
        )
        found |= {f"{way} tokens": sequences, way: measured.values}
    return found


def conversation(model: Any) -> dict[str, Tensor]:
    """A copy of a cache goes on measuring with the same processes."""
    inputs, cache = {**prompts(), "guide_seed": seeds()}, DynamicCache(config=model.config)
    said, _ = guide.generate_with_influence(model, inputs, max_new_tokens=2, past_key_values=cache)
    text = torch.cat([said, torch.full((2, 3), 7)], 1)
    more = {
        "input_ids": text,
        "attention_mask": pad(inputs["attention_mask"], (0, 5), value=1),
        "guide_seed": pad(seeds(), (0, 5)),
    }
    found = {}
    for way, held in (("copy", copy.deepcopy(cache)), ("cache", cache)):
        tokens, measured = guide.generate_with_influence(
            model, more, max_new_tokens=3, past_key_values=held
        )
        found |= {f"{way} tokens": tokens, way: measured.values}
    return found


def dense_masks(model: Any) -> dict[str, Tensor]:
    """A model that reworks its mask, which leaves the bias to the attention function."""
    run = verify._run

    def run_dense(model: Any, implementation: str, *inputs: Tensor) -> Any:
        if implementation == "guide":
            raise NotImplementedError
        return run(model, implementation, *inputs)

    guide.disable(model)
    with mock.patch.object(verify, "_run", run_dense):
        guide.enable(model)
    inputs = {**steered(), "guide_seed": seeds()}
    found = {
        "strength": logits(model, steered()),
        "paper": guide.influence(model, inputs, by_head=True).values,
    }
    guide.enable(guide.disable(model))
    return found


def one_graph(model: Any) -> dict[str, Tensor]:
    """A static cache and a compiled forward, all reduced inside of the graph."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    guide.influence(model, {**prompts(), "guide_seed": seeds()})  # watches the layers
    decoder = Decoder(model, torch.compile(model, fullgraph=True, backend=backend))
    request = Request(model, form_named("paper"))
    with requesting(request):
        steps = decoder.generate(prompts(), marks(), random_strength(), NEW, guide_seed=seeds())
    assert request.state is not None
    return {
        "graphs": torch.tensor(len(graphs)),
        "tokens": torch.stack(steps, 1).argmax(-1),
        "paper": request.state.stacked(TOKENS + NEW - 1),
    }


def calibration(model: Any) -> dict[str, Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(model.config.name_or_path)
    text = "<!!->Summarize in French<-!!>\nYesterday, the baker hides the key in the barn."
    chat = [{"role": "user", "content": text}]
    found = guide.calibrate(model, tokenizer, chat, target=1.5, tolerance=0.1)
    own = guide.encode(model, tokenizer, text, steering=Steering.guide(2.0, heads=[3]))
    return {"curve": torch.tensor(found.curve), "strength": own["guide_strength"]}


def refused(call: Callable[[], Any]) -> str:
    """Return the words of an error."""
    try:
        call()
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def part_of_a_model(model: Any) -> dict[str, Any]:
    """Nothing on a part of a model says where the other heads are; a bias needs none of them."""
    guide.disable(model)
    part = guide.enable(model.model)
    inputs, strength = {**prompts(), "guide_seed": seeds()}, random_strength()[:, :, : HEADS // 2]
    with torch.no_grad():
        hidden = part(**prompts(), guide_bias=marks()).last_hidden_state
    found = {
        "bias": model.lm_head(hidden).detach(),
        "influence": refused(lambda: guide.influence(part, inputs)),
        "strength": refused(lambda: part(**prompts(), guide_bias=marks(), guide_strength=strength)),
    }
    guide.disable(part)
    guide.enable(model)
    return found


def tokens_apart(model: Any) -> dict[str, Any]:
    """Sequence parallelism: between its blocks every process has its own tokens."""
    rank = dist.get_rank()
    apart = False  # texts that cannot be halved, as single tokens, stay whole

    def split(tensor: Tensor) -> Tensor:
        return tensor.chunk(PROCESSES, 1)[rank] if apart else tensor

    def begin(module: Any, args: Any) -> Any:
        nonlocal apart
        apart = args[0].shape[1] % PROCESSES == 0
        return (split(args[0]), *args[1:])

    def join(tensor: Tensor) -> Tensor:
        if not apart:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(PROCESSES)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts, 1)

    def join_states(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "hidden_states": join(kwargs["hidden_states"])}

    decoder = model.model
    decoder.layers[0].register_forward_pre_hook(begin)
    decoder.norm.register_forward_pre_hook(lambda m, args: (join(args[0]),))
    for layer in decoder.layers:
        layer.mlp.register_forward_pre_hook(lambda m, args: (join(args[0]),))
        layer.mlp.register_forward_hook(lambda m, args, out: split(out))
        layer.self_attn.register_forward_pre_hook(join_states, with_kwargs=True)
        layer.self_attn.register_forward_hook(lambda m, args, out: (split(out[0]), *out[1:]))
    guide.enable(model)
    even = {name: tensor[:, 1:] for name, tensor in steered().items() if name != "guide_strength"}
    return {
        "strength": logits(model, {**even, "guide_strength": random_strength()}),
        "influence": refused(
            lambda: guide.influence(model, {**even, "guide_seed": seeds()[:, :, 1:]})
        ),
    }


def layers_apart(model: Any) -> dict[str, Any]:
    """Pipeline parallelism: every process has its own layers."""
    guide.enable(model)
    own = {**steered(), "guide_strength": random_strength()[:, :1]}
    return {
        "bias": logits(model, prompts(), guide_bias=marks()),
        "influence": refused(lambda: guide.influence(model, {**prompts(), "guide_seed": seeds()})),
        "strength": refused(lambda: logits(model, own)),
        "cache": refused(lambda: model.generate(**steered_alone(), max_new_tokens=2)),
        "generate": refused(lambda: model.generate(**own, max_new_tokens=2)),
    }


def steered_alone() -> dict[str, Any]:
    """Inputs with a bias."""
    return {**prompts(), "guide_bias": marks()}


def encode(model: Any) -> dict[str, Any]:
    """Heads of a part of a model have no numbers."""
    tokenizer = AutoTokenizer.from_pretrained(model.config.name_or_path)
    part, text = guide.enable(guide.disable(model).model), "the <!!->cat<-!!> sleeps"
    heads = Steering.guide(2.0, heads=[1])
    return {
        "all": refused(lambda: guide.encode(part, tokenizer, text)),
        "heads": refused(lambda: guide.encode(part, tokenizer, text, steering=heads)),
    }


CASES: dict[str, Callable[[Any], dict[str, Tensor]]] = {
    case.__name__: case for case in (steering, forms, heads, generation, conversation, dense_masks)
}


def outcome(case: Callable[[Any], dict[str, Any]], model: Any) -> dict[str, Any]:
    """Run a case; its error is an outcome, too."""
    try:
        return case(model)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main(folder: Path, rank: int) -> None:
    """Be one of the processes."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=PROCESSES,
        timeout=PATIENCE,
    )

    def load(name: str, **config: Any) -> Any:
        return AutoModelForCausalLM.from_pretrained(
            folder / name, dtype=torch.float32, distributed_config=DistributedConfig(**config)
        ).eval()

    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name, (architecture, plan) in MODELS.items():
        model = guide.enable(load(architecture, tp_size=PROCESSES, tp_plan=plan))
        for key, case in CASES.items():
            found[name, key] = outcome(case, model)
        found[name, "parts"] = outcome(parts, model)
    llama = {"tp_size": PROCESSES, "tp_plan": "auto"}
    model = guide.enable(load("llama", **llama))
    found["llama", "one_graph"] = outcome(one_graph, model)
    found["llama", "part_of_a_model"] = outcome(part_of_a_model, model)
    found["llama", "tokens_apart"] = outcome(tokens_apart, load("llama", **llama))
    found["llama", "layers_apart"] = outcome(layers_apart, load("llama", pp_size=PROCESSES))
    model = guide.enable(load("embedded", **llama))
    found["embedded", "calibration"] = outcome(calibration, model)
    found["embedded", "encode"] = outcome(encode, model)
    torch.save(found, folder / f"found_{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
