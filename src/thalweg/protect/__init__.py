"""Guards: what a network has learned stays in place while it learns something else, and no old data is kept.

`remember` measures which directions the old task needs and writes that as a file; `guard` constrains every step of an
optimizer by it; `guard_price` says beforehand what that takes from the new task; `transfer` measures the outcome.
"""
