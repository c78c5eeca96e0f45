"""Is a task fit to be measured, and what will that take?"""
