# SPDX-License-Identifier: MIT
"""The report of one measurement of Influence: a page, a picture, plots."""
