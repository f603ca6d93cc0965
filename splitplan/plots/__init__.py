"""Figures from tables. A leaf: it knows matplotlib and splitplan's errors, and no other room.

Every function returns a `matplotlib.figure.Figure` of its own, never pyplot's state, so that notebooks, scripts and machines
without a screen get the same.
"""
