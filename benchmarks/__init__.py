"""Side-by-side runs against peers and the claims of the papers: each prints one table and one JSON line."""
