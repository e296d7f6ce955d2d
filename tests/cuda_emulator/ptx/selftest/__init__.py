# SPDX-License-Identifier: MIT
"""What ``tests/cuda/test_ptx_translator*.py`` needs: cases, their answers, a way to run."""
