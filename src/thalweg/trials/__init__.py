"""Trials: does working along a direction, or in a layer, pay?"""
