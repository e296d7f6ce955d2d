# SPDX-License-Identifier: MIT
"""Pages, figures and terminal views of the studies' tables."""
