"""A network: its layer graph, how it is traced from PyTorch, the reference zoo, and its parts.

Only `graph` and `merge` know no torch; import the other modules where they are used.
"""
