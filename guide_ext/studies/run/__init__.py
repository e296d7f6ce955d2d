# SPDX-License-Identifier: MIT
"""Runs of studies: plans, workers, the folder that makes them resumable."""
