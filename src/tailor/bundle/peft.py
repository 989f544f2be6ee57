"""A LoRA-only bundle in the layout of the peft library: `adapter_config.json` and `adapter_model.safetensors`.

The classifier goes along as a module to save. peft wraps whole linear layers, so a plan qualifies when every tune is
LoRA on a whole layer with one rank and factor and nothing else trains.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from tailor.backbones.walk import heads_of
from tailor.bundle.files import replacing, write_text
from tailor.errors import PlanError
from tailor.spec import Spec
from tailor.surgery import get_module
from tailor.tuning.methods.lora import Lora, LoraLinear
from tailor.tuning.plan import TunePlan

_PREFIX = "base_model.model."


def write(folder: Path, model: nn.Module, spec: Spec) -> int:
    """Write the two files into `folder`; bytes written. PlanError where the plans are not LoRA on whole layers."""
    plan = _only_lora(spec)
    folder.mkdir(parents=True, exist_ok=True)
    method = plan.tunes[0].method
    assert isinstance(method, Lora)
    heads = heads_of(model)
    tensors = {}
    for tune in plan.tunes:
        module = get_module(model, tune.path)
        assert isinstance(module, LoraLinear)
        tensors[f"{_PREFIX}{tune.path}.lora_A.weight"] = module.down.detach().clone()
        tensors[f"{_PREFIX}{tune.path}.lora_B.weight"] = module.up.detach().clone()
    for head in heads:
        for name, value in get_module(model, head).state_dict().items():
            tensors[f"{_PREFIX}{head}.{name}"] = value.detach().clone()
    with replacing(folder / "adapter_model.safetensors") as temporary:
        save_file({k: v.to(torch.float32) for k, v in tensors.items()}, temporary, metadata={"format": "pt"})
    write_text(folder / "adapter_config.json", json.dumps(_config(plan, method, spec, heads), indent=1) + "\n")
    return sum(f.stat().st_size for f in folder.iterdir())


def _only_lora(spec: Spec) -> TunePlan:
    plans = spec.tuning
    plain = len(plans) == len(spec.plans) == 1 and not plans[0].full and not plans[0].entries
    methods = {tune.method for plan in plans for tune in plan.tunes}
    if (
        not plain
        or len(methods) != 1
        or not isinstance(next(iter(methods)), Lora)
        or any(tune.rows for tune in plans[0].tunes)
    ):
        raise PlanError(
            "only a bundle whose one plan is LoRA on whole layers can be written in peft's layout",
            hint="adapt with `--method lora`, or export to `.onnx` or `.pt2`",
        )
    return plans[0]


def _config(plan: TunePlan, method: Lora, spec: Spec, heads: tuple[str, ...]) -> dict[str, Any]:
    """peft scales by lora_alpha / r; tailor by alpha / rank, or 1 where alpha is 0."""
    return {
        "peft_type": "LORA",
        "auto_mapping": None,
        "base_model_name_or_path": spec.backbone.name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": method.alpha or method.rank,
        "lora_dropout": method.dropout,
        "modules_to_save": list(heads),
        "r": method.rank,
        "target_modules": [tune.path for tune in plan.tunes],
        "task_type": None,
    }
