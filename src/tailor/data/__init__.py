"""Images and labels: sources, splits, checks, transforms, loading."""
