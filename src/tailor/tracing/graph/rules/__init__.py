"""One small rule an operator: from the dimensions of its operands to those of its result.

A rule unifies axes that must shrink together, pins those that cannot, and never looks at values. The tables are keyed
by the ATen name without overload and without the trailing underscore of in-place forms. An operator without a row pins
all its operands and is reported; nothing is assumed to be element-wise.
"""

from tailor.tracing.graph.rules.call import Rule
from tailor.tracing.graph.rules.convolution import CONVOLUTION
from tailor.tracing.graph.rules.pointwise import POINTWISE
from tailor.tracing.graph.rules.products import PRODUCTS
from tailor.tracing.graph.rules.shape import INDEX, SHAPE
from tailor.tracing.graph.rules.statistics import STATISTICS

RULES: dict[str, Rule] = {**POINTWISE, **PRODUCTS, **CONVOLUTION, **STATISTICS, **SHAPE, **INDEX}
