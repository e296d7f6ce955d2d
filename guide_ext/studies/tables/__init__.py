# SPDX-License-Identifier: MIT
"""From the results of cells to tables: judging, statistics, columns."""
