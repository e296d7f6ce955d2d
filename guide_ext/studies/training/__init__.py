# SPDX-License-Identifier: MIT
"""Supervised fine-tuning with LoRA: examples, packing, training, checkpoints."""
