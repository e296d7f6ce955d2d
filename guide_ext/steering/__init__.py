# SPDX-License-Identifier: MIT
"""Steering: what marks mean, as a bias per token, layer and head."""

from guide_ext.steering.batch import Batch, collate
from guide_ext.steering.steering import Steering

__all__ = ["Batch", "Steering", "collate"]
