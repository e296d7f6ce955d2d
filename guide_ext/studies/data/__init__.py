# SPDX-License-Identifier: MIT
"""Documents and prompts of the studies."""
