# SPDX-License-Identifier: MIT
"""What ``tests/test_ptx_translator.py`` needs: cases with their answers, and a way to run them."""
