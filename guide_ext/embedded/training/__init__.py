# SPDX-License-Identifier: MIT
"""How the embedded model was trained: curriculum, tokenizer, network, loop."""
