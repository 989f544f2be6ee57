"""What verbs share: opening models and data, training, planners, the steps of a pruning, records of what came out."""
