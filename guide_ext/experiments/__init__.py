# SPDX-License-Identifier: MIT
"""Measurements that anyone can repeat: what the product shows, and how it was counted."""
