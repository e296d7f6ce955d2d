# SPDX-License-Identifier: MIT
"""What happens inside one call of an enabled model: its arguments, masks and attention."""
