# SPDX-License-Identifier: MIT
"""Plain helpers without a dependency, which every other folder may use."""
