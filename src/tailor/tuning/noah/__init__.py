"""NOAH: a search, for one task, over how much of three methods every block gets."""
