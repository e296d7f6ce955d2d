# SPDX-License-Identifier: MIT
"""Importing this checks that what pages and figures of studies need is installed."""

from guide_ext.support.extras import check_installed

check_installed("markupsafe", "to write pages")
check_installed("matplotlib", "to draw figures")
check_installed("PIL", "to draw figures")
