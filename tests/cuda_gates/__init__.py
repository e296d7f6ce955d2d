# SPDX-License-Identifier: MIT
"""What the compiler made of the CUDA kernels, read from the built library; no GPU is needed.

`disassembly` reads a library, `control_flow` finds the main loop of a kernel and the path that an
ordinary block of keys takes through it, `tiles` says what that path must hold, `gate` compares,
`roofline` predicts what bounds it, and `python -m tests.cuda_gates` prints all of it.
"""
