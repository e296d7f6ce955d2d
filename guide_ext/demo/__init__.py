# SPDX-License-Identifier: MIT
"""The demonstration: plain against guided answers, counted, timed and drawn."""

from guide_ext.support.extras import check_installed

check_installed("transformers", "to steer models")
check_installed("matplotlib", "to draw pictures")
