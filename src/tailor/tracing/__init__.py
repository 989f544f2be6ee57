"""The anatomy of any model from its exported graph: which axes shrink together, and cutting them exactly."""

from tailor.tracing.awake import awakened
from tailor.tracing.cost import Cost, mac_cost, parameter_cost
from tailor.tracing.cut import cut, cut_, remaining
from tailor.tracing.groups import Group, Groups, Member, Pinned
from tailor.tracing.paper import as_published
from tailor.tracing.plan import Cut, WidthPlan
from tailor.tracing.planning import plan_widths
from tailor.tracing.settle import half, settle
from tailor.tracing.traced import Traced, trace
from tailor.tracing.units import unit_sums
from tailor.tracing.verify import Verdict, verify

__all__ = [
    "Cost",
    "Cut",
    "Group",
    "Groups",
    "Member",
    "Pinned",
    "Traced",
    "Verdict",
    "WidthPlan",
    "as_published",
    "awakened",
    "cut",
    "cut_",
    "half",
    "mac_cost",
    "parameter_cost",
    "plan_widths",
    "remaining",
    "settle",
    "trace",
    "unit_sums",
    "verify",
]
