# SPDX-License-Identifier: MIT
"""The demonstration: compare plain and guided answers, count, time and draw them."""

from guide_ext.support.extras import check_installed

check_installed("transformers", "to steer models")
check_installed("matplotlib", "to draw pictures")
