"""SPViT (arXiv 2111.11802): attention into convolution or nothing, and hidden units, by gates in one shared path."""
