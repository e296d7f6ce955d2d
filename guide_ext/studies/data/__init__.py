# SPDX-License-Identifier: MIT
"""Tasks, and the documents they are asked about."""
