"""The parts of an analysis: each measures, counts what that cost, and gives plain values."""
