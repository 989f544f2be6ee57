"""SPT: how a budget of parameters is placed by sensitivity."""
