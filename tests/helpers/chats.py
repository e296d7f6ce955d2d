# SPDX-License-Identifier: MIT
"""Short chats with marks, and what a chat template may be given beside them."""

from dataclasses import dataclass


def chat(user, system="You are <?rule->brief<-?rule>.", role="user"):
    return [{"role": "system", "content": system}, {"role": role, "content": user}]


def covered(marked):
    return [marked.text[span.start : span.end] for span in marked.spans]


@dataclass
class Note:
    title: str
    text: object
