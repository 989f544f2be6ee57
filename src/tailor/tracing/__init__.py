"""The anatomy of any model from its exported graph: which axes shrink together, and cutting them exactly."""

from tailor.tracing.graph.groups import Group, Groups, Member, Pinned, operators, unit_sums
from tailor.tracing.graph.paper import as_published
from tailor.tracing.graph.traced import Traced, trace
from tailor.tracing.trial.settle import half, settle
from tailor.tracing.trial.verify import Verdict, awakened, verify
from tailor.tracing.widths.cost import Cost, mac_cost, parameter_cost
from tailor.tracing.widths.cut import cut, cut_, remaining
from tailor.tracing.widths.plan import Cut, WidthPlan
from tailor.tracing.widths.planning import plan_widths

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
    "operators",
    "parameter_cost",
    "plan_widths",
    "remaining",
    "settle",
    "trace",
    "unit_sums",
    "verify",
]
