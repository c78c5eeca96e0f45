"""Recording: what is written, what is read back, what happens when something breaks."""
