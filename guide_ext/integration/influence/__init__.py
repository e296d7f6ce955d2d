# SPDX-License-Identifier: MIT
"""Measure Influence while a transformers model runs.

For users, ``guide_ext.integration.influence`` is the function of that name in `measure`: it stands
where this folder would. Our own code imports the folder's files, as in
``from guide_ext.integration.influence.measure import generate_with_influence``.
"""
