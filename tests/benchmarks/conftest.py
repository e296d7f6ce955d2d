# SPDX-License-Identifier: MIT
"""Scripts that set the number of threads run in the process of the tests, too."""

from fixtures import restored_threads

__all__ = ["restored_threads"]
