# SPDX-License-Identifier: MIT
"""Which keyword arguments the attention function accepts, and why it refuses the others.

A model of transformers can pass anything to its attention function. An argument that the function
does not read is ignored silently, although it may decide which keys a query sees. So every name is
either a parameter of `attention.guide_attention`, or known to change nothing, or an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guide_ext.integration.call.arguments import STEERING_ARGUMENTS

# Names that change nothing in what attention computes under "guide", with the reason.
HARMLESS: dict[str, str] = {
    # These have had their effect before attention is called.
    "position_ids": "query and key carry their rotation, and the mask knows packed texts",
    "position_embeddings": "query and key carry their rotation",
    "cache_position": "the mask knows where queries and keys lie",
    "use_cache": "key and value are what the cache returned",
    "layer_idx": "key and value are what the cache returned",
    "sliding_window": "the mask has the window, as it has in eager attention",
    "token_type_ids": "the mask has the blocks that they describe",
    "mm_token_type_ids": "the mask has the blocks that they describe",
    # These are meant for other layers, for the loss or for what the model returns.
    "num_items_in_batch": "divides the loss",
    "logits_to_keep": "counts logits",
    "labels": "the loss alone reads them",
    "tokenizer": "generate() hands it on at every step; it finds the words that end a text",
    "output_hidden_states": "the model collects them around its layers",
    "output_router_logits": "mixtures of experts return them",
    "return_dict": "the form of what the model returns",
    "seq_idx": "state-space layers alone read it, attention learns of packed texts by its mask",
    # Other attention functions need these.
    "deterministic": "asks flash attention for gradients that repeat, as those of the op do",
}

# Names that are known and refused, with what to do instead.
REFUSED: dict[str, str] = {
    "output_attentions": "load the model with attn_implementation='eager' to see the weights",
    "cu_seq_lens_q": "pass position_ids that begin at 0 in every text, and no lengths",
    "cu_seq_lens_k": "pass position_ids that begin at 0 in every text, and no lengths",
    "max_length_q": "pass position_ids that begin at 0 in every text, and no lengths",
    "max_length_k": "pass position_ids that begin at 0 in every text, and no lengths",
    "sinks": "a sink for every token is not supported, one for every head is (s_aux)",
    "cache": "the model has no cache of this name and would drop it",
    "past_key_values": "the model has no cache of this name and would drop it",
    "head_mask": "switch heads off in their output projection instead",
    "kernel_options": "they belong to flex attention",
}


def check_keywords(module: object, kwargs: Mapping[str, Any], *, is_numbered: bool) -> None:
    """Refuse keyword arguments that attention would ignore although they may matter.

    Args:
        module: The attention module, for the message.
        kwargs: The keyword arguments that are no parameters of the attention function.
        is_numbered: Whether the module belongs to an enabled model.

    Raises:
        ValueError: If an argument that is not in `HARMLESS` has another value than None; a false
            ``output_attentions`` is accepted, too.

    """
    for name, value in kwargs.items():
        if value is None or name in HARMLESS:
            continue
        if name == "kwargs" and isinstance(value, Mapping):
            # transformers' pipelines pass **kwargs on as one argument with the name "kwargs".
            check_keywords(module, value, is_numbered=is_numbered)
            continue
        if name == "output_attentions":
            if value:
                raise ValueError(
                    "output_attentions must be False under attn_implementation='guide', which "
                    "never forms the attention matrix; load the model with "
                    "attn_implementation='eager' to see it"
                )
            continue
        if name in STEERING_ARGUMENTS:
            raise ValueError(
                f"{name} must go to the model that was enabled, got a part of it, or a forward "
                "that a wrapper kept from before; call that model, which passes it on to its "
                "parts, and enable the model before you wrap it"
                if is_numbered
                else f"{name} must go to an enabled model, got one that was not; "
                "call guide_ext.integration.enable(model) first"
            )
        advice = REFUSED.get(name, "leave it out, or use attn_implementation='eager'")
        raise ValueError(
            f"{name} must be None under attn_implementation='guide', which does not know what it "
            f"does to attention, got a {type(value).__name__} in {type(module).__name__}; {advice}"
        )
