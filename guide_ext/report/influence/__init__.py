# SPDX-License-Identifier: MIT
"""The report of one measurement of Influence: a page, a picture, plots."""

from guide_ext.support.extras import check_installed

check_installed("markupsafe", "to write pages")
