# SPDX-License-Identifier: MIT
"""The demonstration: plain against guided answers, counted, timed and drawn."""
