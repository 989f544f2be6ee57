"""A race of candidates for one target: what they are, what a pass of them takes, how the time is divided."""
