# SPDX-License-Identifier: MIT
"""What this machine is, what its processor computes fast, and which kernels serve it."""
