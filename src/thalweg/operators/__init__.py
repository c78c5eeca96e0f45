"""Symmetric operators on parameter space, by their products."""
