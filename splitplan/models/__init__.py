"""A network: its layer graph, how it is traced from PyTorch, the reference zoo, and its parts.

Only `graph`, `rows`, `table`, `order` and `merge` know no torch, and `load` none until it is called; import the others where they are used.
"""
