# SPDX-License-Identifier: MIT
"""The network of the embedded model, exported: transformers computes the same."""

import pytest
import torch
from embedded_cases import TINY, case_of

from guide_ext.embedded import model_path
from guide_ext.embedded.evaluate import CaseKind
from guide_ext.embedded.training import network


class TestExport:
    def test_transformers_computes_the_same_logits(self, engine):
        transformers = pytest.importorskip("transformers")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            model_path(), dtype=torch.float32, attn_implementation="eager"
        )
        assert type(model).__name__ == "MistralForCausalLM"
        case = case_of(CaseKind.FRENCH, 6, engine.tokenizer)
        ids, is_marked = engine.encode(case.prompt)
        seqlen = len(ids)
        bias = torch.full((seqlen, seqlen), torch.finfo(torch.float32).min).triu(1)
        for delta in (0.0, 2.0):
            mask = (bias + delta * torch.tensor(is_marked).float())[None, None]
            with torch.no_grad():
                logits = model(torch.tensor([ids]), attention_mask=mask).logits[:, -1]
            probabilities = engine.next_token_probabilities([case.prompt], delta)
            torch.testing.assert_close(logits.softmax(-1), probabilities)

    def test_export_and_load_keep_bf16_weights(self, tmp_path):
        torch.manual_seed(0)
        made = network.Network(TINY)
        network.export(made, tmp_path)
        loaded = network.load(tmp_path)
        assert loaded.config == made.config
        for name, weight in made.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], weight.bfloat16().float())

    def test_the_package_data_is_small(self):
        assert sum(path.stat().st_size for path in model_path().iterdir()) < 3_000_000
