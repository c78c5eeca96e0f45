"""Training libraries: what they train is recorded, and nothing of the recording reaches them."""
