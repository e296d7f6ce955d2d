# SPDX-License-Identifier: MIT
"""From results to tables: judges, statistics, columns."""
