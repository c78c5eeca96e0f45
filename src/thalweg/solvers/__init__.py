"""Solvers: eigenpairs by Lanczos, principal components from Gram matrices."""
