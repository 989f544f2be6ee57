"""Random weights that hide nothing: by default layer scales are tiny, biases zero and norms the identity."""

import torch
from torch import nn


def shake_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Randomise every parameter and running statistic in place, at a scale that neither explodes nor vanishes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)

    with torch.no_grad():
        for parameter in dict.fromkeys(model.parameters()):
            if parameter.ndim >= 2 and parameter.numel() > parameter.shape[0]:
                fan = parameter[0].numel()
                parameter.copy_(normal(parameter) * fan**-0.5)
            else:
                parameter.copy_(normal(parameter) * 0.2 + (1.0 if parameter.ndim == 1 else 0.0))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(normal(parameter) * 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(normal(buffer) * 0.2)
            elif name.endswith("running_var"):
                buffer.copy_(normal(buffer).abs() + 0.5)
    return model
