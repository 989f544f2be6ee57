"""A bundle in the layout of the peft library: LoRA as LoRA, single weights as SHiRA, what is neither in a file beside.

peft knows whole layers, so low-rank updates on parts of a fused layer become one of their ranks together, its `up` zero
elsewhere (`rank_pattern`). One adapter has one kind: where there are both, the single weights stand in `entries/` and
are folded in first. Norms, biases and tokens that train belong to no adapter: `rest.safetensors` holds their values.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from tailor.backbones.walk import heads_of
from tailor.bundle.files import replacing, write_text
from tailor.bundle.shira import sparse_config, sparse_tensors
from tailor.errors import PlanError
from tailor.spec import Spec
from tailor.surgery import get_module, get_parameter, split_range
from tailor.tuning.apply import merge_
from tailor.tuning.layers import matrix_shape
from tailor.tuning.methods.lora import Lora, LoraConv, LoraLinear
from tailor.tuning.plan import TunePlan
from tailor.tuning.sparse import SparseWeight

PREFIX = "base_model.model."
ADAPTER, CONFIG, ENTRIES, REST = "adapter_model.safetensors", "adapter_config.json", "entries", "rest.safetensors"


@dataclass(frozen=True)
class PeftParts:
    """What trained, by where it goes: low-rank modules and sparse layers by path, other values by parameter."""

    low_rank: dict[str, LoraLinear | LoraConv]
    sparse: dict[str, SparseWeight]
    rest: dict[str, Tensor]


def write(folder: Path, model: nn.Module, spec: Spec) -> int:
    """Write the adapters and how to load them into `folder`; bytes written.

    `model` is the bundle's, its tunes unmerged. PlanError where something trained that neither LoRA nor SHiRA can say.
    """
    parts, heads = parts_of(model, spec), heads_of(model)
    saved = {
        f"{PREFIX}{head}.{name}": value
        for head in heads
        for name, value in get_module(model, head).state_dict().items()
    }
    both = bool(parts.low_rank and parts.sparse)
    base: dict[str, Any] = {"base_model_name_or_path": spec.backbone.name, "auto_mapping": None, "task_type": None}
    base |= {"inference_mode": True, "fan_in_fan_out": False}
    ends = {"modules_to_save": list(heads)}
    if parts.low_rank:
        _adapter(folder, {**base, **ends, **_config(parts.low_rank)}, saved | _tensors(parts.low_rank))
    if parts.sparse:
        rank, found = sparse_tensors(parts.sparse, PREFIX)
        settings = {**base, **({} if both else ends), **sparse_config(rank, list(parts.sparse))}
        _adapter(folder / ENTRIES if both else folder, settings, found if both else saved | found)
    if parts.rest:
        _save(folder / REST, parts.rest)
    write_text(folder / "README.md", _readme(spec, bool(parts.rest), both))
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def parts_of(model: nn.Module, spec: Spec) -> PeftParts:
    """What of the bundle's one plan goes where."""
    plan = _one_plan(spec)
    low_rank = {tune.path: get_module(model, tune.path) for tune in plan.tunes}
    sparse = {path: m for path, m in _sparse(model) if isinstance(m.base, nn.Linear)}
    plain = merge_(copy.deepcopy(model), plan)
    names = [split_range(name)[0] for name in plan.full] + [entries.tensor for entries in plan.entries]
    told = (*(f"{path}.weight" for path in sparse), *(f"{head}." for head in heads_of(model)))
    rest = {name: get_parameter(plain, name).detach() for name in dict.fromkeys(names) if not name.startswith(told)}
    twice = next((path for path in low_rank if f"{path}.weight" in rest), None)
    if twice is not None:
        raise PlanError(
            f"`{twice}` has a low-rank update and single weights of a convolution, which peft cannot say together",
            hint="export to `.onnx` or `.pt2`",
        )
    if not low_rank and not sparse:
        raise _refused()
    return PeftParts(low_rank, sparse, rest)  # type: ignore[arg-type]


def _sparse(model: nn.Module) -> list[tuple[str, SparseWeight]]:
    """Layers with single weights, by the path that they have in the stock model: outside any wrapper."""
    found = [(path, module) for path, module in model.named_modules() if isinstance(module, SparseWeight)]
    return [(path.removesuffix(".base"), module) for path, module in found]


def _one_plan(spec: Spec) -> TunePlan:
    plans = spec.tuning
    if len(plans) != 1 or len(spec.plans) != 1 or not all(isinstance(t.method, Lora) for t in plans[0].tunes):
        raise _refused()
    paths: dict[str, set[Any]] = {}
    for tune in plans[0].tunes:
        paths.setdefault(tune.path, set()).add(tune.method)
    if any(len(methods) > 1 for methods in paths.values()):
        raise _refused()
    return plans[0]


def _refused() -> PlanError:
    return PlanError(
        "only a bundle whose one plan is LoRA, single weights, or both can be written in peft's layout",
        hint="adapt with `--method lora`, `spt-lora` or `spt-unstructured`, or export to `.onnx` or `.pt2`",
    )


def _tensors(low_rank: dict[str, LoraLinear | LoraConv]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path, module in low_rank.items():
        found[f"{PREFIX}{path}.lora_A.weight"] = module.down
        found[f"{PREFIX}{path}.lora_B.weight"] = module.up if isinstance(module, LoraConv) else _whole(module)
    return found


def _whole(module: LoraLinear) -> Tensor:
    """(out, ranks of all parts): each part's `up` in its rows and its own columns, zero elsewhere."""
    parts = module.up.split([stop - start for start, stop in module.rows])
    rank = module.up.shape[1]
    whole = module.up.new_zeros(matrix_shape(module)[0], rank * len(parts))
    for number, ((start, stop), part) in enumerate(zip(module.rows, parts, strict=True)):
        whole[start:stop, number * rank : (number + 1) * rank] = part.detach()
    return whole


def _config(low_rank: dict[str, LoraLinear | LoraConv]) -> dict[str, Any]:
    """peft scales by lora_alpha / r, each layer by its own."""
    ranks = {path: len(module.down) for path, module in low_rank.items()}
    common = max(ranks.values(), key=list(ranks.values()).count)
    alphas = {path: module.scale * ranks[path] for path, module in low_rank.items()}
    first = next(alphas[path] for path in ranks if ranks[path] == common)
    return {
        "peft_type": "LORA",
        "bias": "none",
        "init_lora_weights": True,
        "r": common,
        "lora_alpha": first,
        "lora_dropout": next(iter(low_rank.values())).dropout.p,
        "rank_pattern": {path: rank for path, rank in ranks.items() if rank != common},
        "alpha_pattern": {path: alpha for path, alpha in alphas.items() if alpha != first},
        "target_modules": list(low_rank),
    }


def _adapter(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    _save(folder / ADAPTER, tensors)
    write_text(folder / CONFIG, json.dumps(config, indent=1) + "\n")


def _save(file: Path, tensors: dict[str, Tensor]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: t.detach().cpu() for name, t in tensors.items()}
    kept = {name: (t.float() if t.is_floating_point() else t).clone().contiguous() for name, t in plain.items()}
    with replacing(file) as temporary:
        save_file(kept, temporary, metadata={"format": "pt"})


def _readme(spec: Spec, rest: bool, both: bool) -> str:
    """The lines of Python that load what was written."""
    lines = [
        "from peft import PeftModel",
        "from safetensors.torch import load_file",
        "",
        f"# model = the backbone `{spec.backbone.name}` (weights: {spec.backbone.weights}), with a classifier of "
        f"{len(spec.head.classes)} classes",
    ]
    if rest:
        lines.append(f'rest = load_file("{REST}")  # norms, biases and tokens: a part of the model')
        lines.append("assert not model.load_state_dict(rest, strict=False).unexpected_keys")
    if both:
        lines.append(f'model = PeftModel.from_pretrained(model, "{ENTRIES}").merge_and_unload()  # single weights')
    lines.append('model = PeftModel.from_pretrained(model, ".").eval()')
    names = ", ".join(spec.head.classes[:20]) + (", ..." if len(spec.head.classes) > 20 else "")
    code = "\n".join(lines)
    return f"An adapter of `{spec.backbone.name}`, written by tailor. Classes: {names}.\n\n```python\n{code}\n```\n"
