# SPDX-License-Identifier: MIT
"""Influence of every generated token: what recomputation over the whole text gives."""

import copy

import pytest
import torch
from influence_reference import TOKENS, reference_levels, seeds
from models import CACHE, WINDOW, ZOO, Decoder, make, marks, prompts
from tolerance import INFLUENCE
from transformers import DynamicCache

from guide_ext import integration as guide
from guide_ext.influence.forms import FORMS, form_named
from guide_ext.integration.influence.hooks import requesting
from guide_ext.integration.influence.state import Request

NEW = 6
WAYS = {
    "greedy": {},
    "chunks": {"prefill_chunk_size": 4},
    "static": {"cache_implementation": "static"},
    "sampling": {"do_sample": True, "num_return_sequences": 3},
    "no cache": {"use_cache": False},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "beam sampling": {"num_beams": 2, "do_sample": True},
}


@pytest.fixture(params=ZOO)
def architecture(request):
    return request.param


def recomputed(name, sequences, prompt, seed, bias, form="paper"):
    """Levels of whole sequences but their last token, from a model that was never enabled."""
    copies = sequences.shape[0] // prompt["input_ids"].shape[0]
    ids = sequences[:, :-1]
    new = ids.shape[1] - prompt["attention_mask"].shape[1]
    mask = torch.nn.functional.pad(prompt["attention_mask"], (0, new), value=1)
    mask = mask.repeat_interleave(copies, 0)
    # As generate() counts them; GPT-2 has absolute positions.
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    seed, bias = seed.repeat_interleave(copies, 0), bias.repeat_interleave(copies, 0)
    levels = reference_levels(make(name), name, inputs, seed, form=form, bias=bias)
    return levels, inputs["attention_mask"]


def check(name, found, sequences, prompt, seed, bias, form="paper"):
    levels, mask = recomputed(name, sequences, prompt, seed, bias, form)
    assert found.values.shape == levels.shape
    tokens = (mask.bool() & found.mask)[:, None, None].expand_as(levels)
    assert (found.values.double() - levels)[tokens].abs().max() <= INFLUENCE
    assert found.values[~found.mask[:, None, None].expand_as(found.values)].eq(0).all()
    return found


def run(model, prompt, seed, bias, **options):
    torch.manual_seed(3)
    inputs = {**prompt, "guide_seed": seed, "guide_bias": bias}
    return guide.generate_with_influence(model, inputs, max_new_tokens=NEW, **options)


@pytest.mark.parametrize("way", WAYS)
def test_equal_to_recomputation(architecture, way):
    model, prompt = guide.enable(make(architecture)), prompts()
    sequences, found = run(model, prompt, seeds(), marks(), **WAYS[way])
    assert sequences.shape[1] == TOKENS + NEW
    check(architecture, found, sequences, prompt, seeds(), marks())
    assert found.prompt_tokens == TOKENS
    torch.manual_seed(3)
    plain = {**prompt, "guide_bias": marks()}
    same = model.generate(**plain, max_new_tokens=NEW, **WAYS[way])
    assert torch.equal(same, sequences)


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    """After the window has slid over the marked tokens, too."""
    model, prompt = guide.enable(make("mistral")), prompts()
    torch.manual_seed(3)
    inputs = {**prompt, "guide_seed": seeds(), "guide_bias": marks()}
    sequences, found = guide.generate_with_influence(
        model, inputs, form=form, max_new_tokens=2 * WINDOW + NEW
    )
    check("mistral", found, sequences, prompt, seeds(), marks(), form)


def test_beams_that_end_early():
    model, prompt = guide.enable(make("llama")), prompts()
    model.generation_config.eos_token_id = list(range(1, 40))
    sequences, found = run(model, prompt, seeds(), marks(), num_beams=4, num_return_sequences=4)
    lengths = found.mask.sum(1)
    assert lengths.unique().numel() > 1  # some ended before others
    check("llama", found, sequences, prompt, seeds(), marks())


def test_rows_that_end_early():
    model, prompt = guide.enable(make("llama")), prompts(rows=4)
    model.generation_config.eos_token_id = list(range(1, 20))
    sequences, found = run(model, prompt, seeds(rows=4), marks(rows=4))
    ended = [(row == 0).nonzero() for row in sequences[:, TOKENS:]]
    assert any(len(end) for end in ended)
    assert not all(len(end) for end in ended)
    for row, end in enumerate(ended):
        written = int(end[0]) if len(end) else NEW - 1
        assert found.mask[row, TOKENS:].sum() == min(written, found.mask.shape[1] - TOKENS)
    check("llama", found, sequences, prompt, seeds(rows=4), marks(rows=4))


def test_prompt_lookup():
    prompt = {name: tensor[1:] for name, tensor in prompts(tokens=12).items()}
    prompt["input_ids"] = prompt["input_ids"][:, :4].repeat(1, 3)
    model = guide.enable(make("llama"))
    seed, bias = seeds(tokens=12)[1:], marks(tokens=12)[1:]
    sequences, found = run(model, prompt, seed, bias, prompt_lookup_num_tokens=3)
    check("llama", found, sequences, prompt, seed, bias)


def test_an_assistant_measures_nothing():
    """It is another model, with a cache of its own; tokens that it proposed are taken back."""
    model, assistant = guide.enable(make("llama")), guide.enable(make("llama", seed=9))
    prompt = {name: tensor[1:] for name, tensor in prompts().items()}
    seed, bias = seeds()[1:], marks()[1:]
    sequences, found = run(model, prompt, seed, bias, assistant_model=assistant)
    check("llama", found, sequences, prompt, seed, bias)


def test_a_conversation_goes_on():
    """A second turn marks more, in the cache of the first; a copy of the cache goes another way."""
    model = guide.enable(make("llama"))
    prompt = {name: tensor[1:] for name, tensor in prompts().items()}
    cache, seed = DynamicCache(config=model.config), seeds()[1:]
    first, _ = run(model, prompt, seed, marks()[1:], **{CACHE: cache})
    branch = copy.deepcopy(cache)
    for held, added in ((cache, 3), (branch, 5)):
        ids = torch.cat([first, torch.full((1, added), 11 + added)], 1)
        text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        more = torch.nn.functional.pad(seed, (0, ids.shape[1] - TOKENS))
        more[:, 0, -added] = 1
        bias = torch.nn.functional.pad(marks()[1:], (0, ids.shape[1] - TOKENS))
        sequences, found = run(model, text, more, bias, **{CACHE: held})
        check("llama", found, sequences, text, more, bias)


def test_a_cache_that_was_filled_before():
    model, prompt = guide.enable(make("llama")), prompts()
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(**prompt, **{CACHE: cache})
    ids = torch.cat([prompt["input_ids"], torch.ones(2, 1, dtype=torch.long)], 1)
    mask = torch.nn.functional.pad(prompt["attention_mask"], (0, 1), value=1)
    with pytest.raises(ValueError, match=f"{CACHE} must be empty when measuring begins"):
        guide.generate_with_influence(
            model,
            {"input_ids": ids, "attention_mask": mask, "guide_seed": seeds(tokens=TOKENS + 1)},
            **{CACHE: cache},
        )


def test_output_of_generate_is_kept():
    model, prompt = guide.enable(make("llama")), prompts()
    output, _ = run(model, prompt, seeds(), marks(), return_dict_in_generate=True)
    assert torch.equal(output.sequences, run(model, prompt, seeds(), marks())[0])


@pytest.mark.parametrize("form", FORMS)
def test_one_graph_serves_every_step(form):
    """The loop of generate(), a static cache and a compiled forward: nothing is traced again."""
    torch._dynamo.reset()
    model, prompt, graphs = guide.enable(make("llama")), prompts(), []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    guide.influence(model, {**prompt, "guide_seed": seeds()})  # watches the layers
    decoder = Decoder(model, torch.compile(model, fullgraph=True, backend=backend))
    for delta in (1.5, -0.5):
        request = Request(model, form_named(form))
        with requesting(request):
            logits = decoder.generate(prompt, marks(delta=delta), None, NEW, guide_seed=seeds())
        new = torch.stack([step.argmax(-1) for step in logits], 1)
        sequences = torch.cat([prompt["input_ids"], new], 1)
        levels, mask = recomputed("llama", sequences, prompt, seeds(), marks(delta=delta), form)
        tokens = mask.bool()[:, None, None].expand_as(levels)
        found = request.state.stacked(levels.shape[3])
        assert (found.double() - levels)[tokens].abs().max() <= INFLUENCE
    assert len(graphs) == 1
