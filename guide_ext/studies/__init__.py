# SPDX-License-Identifier: MIT
"""The paper's studies: a file for each, and what runs, judges, draws and shows them all."""
