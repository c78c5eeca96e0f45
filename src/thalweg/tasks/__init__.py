"""The built-in tasks, and loading a user's own."""
