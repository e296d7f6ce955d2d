# SPDX-License-Identifier: MIT
"""One steered model behind the API of OpenAI: see ``docs/serve.md``.

A request becomes a `prompts.Prepared`, its answers become rows of the `engine.Engine`, whose one
thread generates; the events of a row become the JSON of `wire`.
"""
