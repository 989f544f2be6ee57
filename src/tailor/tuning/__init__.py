"""Tuning: what trains and where. Plans say it, `apply` does it and folds it back; methods are rows of a table."""
