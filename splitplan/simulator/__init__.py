"""Simulation: a policy over a scenario, slot by slot. Imports policies, formulations and data; the executor knows nothing of it."""
