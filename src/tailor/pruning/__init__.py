"""Making a model smaller: which layers, widths and operators stay."""
