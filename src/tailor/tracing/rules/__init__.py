"""One small rule an operator: from the dimensions of its operands to those of its result.

A rule unifies axes that must shrink together, pins those that cannot, and never looks at values. The tables are keyed
by the ATen name without overload and without the trailing underscore of in-place forms. An operator without a row pins
all its operands and is reported; nothing is assumed to be element-wise.
"""

from tailor.tracing.rules.attention import ATTENTION
from tailor.tracing.rules.call import Rule
from tailor.tracing.rules.convolution import CONVOLUTION
from tailor.tracing.rules.index import INDEX
from tailor.tracing.rules.linear import LINEAR
from tailor.tracing.rules.norm import NORM
from tailor.tracing.rules.pointwise import POINTWISE
from tailor.tracing.rules.reduce import REDUCE
from tailor.tracing.rules.shape import SHAPE

RULES: dict[str, Rule] = {
    **POINTWISE,
    **LINEAR,
    **CONVOLUTION,
    **NORM,
    **SHAPE,
    **REDUCE,
    **ATTENTION,
    **INDEX,
}
