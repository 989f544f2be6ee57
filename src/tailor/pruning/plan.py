"""The plan of the width methods. It lives beside the tracing that derives it; the methods decide only its `cuts`."""

from tailor.tracing.widths.plan import Cut, Rescale, Setting, Slice, WidthPlan

__all__ = ["Cut", "Rescale", "Setting", "Slice", "WidthPlan"]
