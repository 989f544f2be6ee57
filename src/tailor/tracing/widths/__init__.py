"""Width plans: their data, their layouts, and the cut that carries one out. None of it needs a graph."""
