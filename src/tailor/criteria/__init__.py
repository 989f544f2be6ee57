"""Scores: a number per weight, unit or block. One pure function each, one file each."""
