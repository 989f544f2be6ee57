"""The race of the automatic planner: candidates are found and timed, the best train, the winner to the end."""
