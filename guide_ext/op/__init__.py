# SPDX-License-Identifier: MIT
"""The op: compiled libraries, fake kernels, derivatives, the fallback, and the oracle.

Knows nothing else of this package.
"""
