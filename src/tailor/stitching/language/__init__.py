"""Stitching causal language models of transformers' Llama family: routes that generate with a cache of their own."""
