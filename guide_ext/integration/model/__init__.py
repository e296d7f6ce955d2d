# SPDX-License-Identifier: MIT
"""One model: its attention layers, the checks of it, and what it carries when enabled."""
