"""From the exported graph of a model to its groups: the axes that shrink together."""
