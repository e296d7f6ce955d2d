# SPDX-License-Identifier: MIT
"""From tags to marked text, to marked tokens and chats. Plain Python: no torch."""
