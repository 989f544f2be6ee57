"""The model card that lies in every bundle: what it is, how it was made, what was measured, how to use it.

It begins with what model hubs read; the score stands there as their `model-index`, from the run's evidence.
"""

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined

from tailor.bundle.evidence import Evidence
from tailor.plans import PLANS
from tailor.spec import Spec
from tailor.tasks import task_of
from tailor.visible import visible

_CARD = """\
---
{{ index }}
---

# {{ spec.backbone.name }}, fitted with tailor

| | |
|---|---|
| backbone | `{{ spec.backbone.name }}`, weights `{{ spec.backbone.weights }}` |
| weights' digest | `{{ spec.backbone.digest }}` |
| task | {{ task }} |
| input | {{ spec.preprocessing }} |
{% for plan in plans -%}
| plan {{ loop.index }} | {{ plan }} |
{% endfor -%}
| tensors | {{ "{:,}".format(bytes) }} bytes |

## Measured

| figure | value |
|---|---|
{% for name, value in metrics -%}
| {{ name }} | {{ value }} |
{% endfor %}
{% if classes -%}
## Classes

{{ classes|join(", ") }}

{% endif -%}
## Use

```python
import tailor

model = tailor.load("path/to/this/folder")  # an ordinary nn.Module in eval mode
```

or `tailor predict path/to/this/folder {{ {"images": "IMAGE", "texts": "PROMPT"}[spec.preprocessing.reads] }}...`.

## Made by

{% for name, value in provenance -%}
- {{ name }}: {{ value }}
{% endfor -%}
"""


def card(
    spec: Spec,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
    size: int,
    evidence: Evidence | None = None,
) -> str:
    """The card as Markdown; `size` is the tensors' bytes."""
    template = Environment(undefined=StrictUndefined, autoescape=False).from_string(_CARD)
    return template.render(
        index=_index(spec, provenance, evidence),
        spec=spec,
        task=f"{task_of(spec.head).kind}, {len(spec.head.classes)} classes"
        if spec.head.classes
        else task_of(spec.head).kind,
        classes=[_plain(name) for name in spec.head.classes],
        plans=[PLANS[plan.kind].line(plan) for plan in spec.plans],
        metrics=[(k, _figure(v)) for k, v in metrics.items() if isinstance(v, int | float | str)],
        provenance=[(k, _plain(str(v))) for k, v in provenance.items() if isinstance(v, int | float | str)],
        bytes=size,
    )


def _index(spec: Spec, provenance: Mapping[str, Any], evidence: Evidence | None) -> str:
    """The YAML that a hub reads: library, backbone, and what was scored on which split."""
    from huggingface_hub import EvalResult, ModelCardData

    name, score = spec.backbone.name, evidence.score if evidence else None
    hub = getattr(task_of(spec.head), "hub", None)
    found = []
    if score is not None and score.after is not None:
        data = visible(str(provenance.get("data", "")).rstrip("/").rpartition("/")[2]) or "unnamed"
        found.append(
            EvalResult(
                task_type=hub or "other",
                dataset_type=data,
                dataset_name=data,
                dataset_split=score.split,
                metric_type=score.metric,
                metric_value=round(score.after, 6),
            )
        )
    index = ModelCardData(
        model_name=f"{name}, fitted with tailor" if found else None,
        library_name="tailor",
        pipeline_tag=hub,
        base_model=name.removeprefix("hf-hub:") if name.startswith("hf-hub:") else None,
        tags=["tailor", *dict.fromkeys(plan.kind for plan in spec.plans)],
        eval_results=found or None,
    )
    return index.to_yaml()


def _figure(value: float | int | str) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def _plain(name: str) -> str:
    """A name as Markdown shows it: no table cell, tag, link or code of its own."""
    return re.sub(r"([\\`*_{}\[\]<>|#!~$])", r"\\\1", visible(name))
