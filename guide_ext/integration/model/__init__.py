# SPDX-License-Identifier: MIT
"""One model: where its attention layers are, how it is checked, what it carries when enabled."""
