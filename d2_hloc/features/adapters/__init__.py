"""One family of features a file; registry.py says which feature is in which.

Each holds an `ADAPTER`, of adapter.Adapter, and the network or algorithm that it makes. They are
imported when they are asked for: kornia takes seconds.
"""
