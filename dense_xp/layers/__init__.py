"""Layers: the contract, and one file for each kind."""
