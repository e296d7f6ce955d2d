# SPDX-License-Identifier: MIT
"""The paper's studies: independent cells, each saved as soon as it is done, and their tables."""
