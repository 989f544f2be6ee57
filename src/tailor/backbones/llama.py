"""transformers' Llama, called like every other model here: token numbers alone in, logits out.

Told more (masks, caches, as `generate` tells it) it answers as transformers' own does. The class adds nothing that is
stored, and has the name of the stock class, so that what it saves is read by transformers anywhere.
"""

from typing import Any

import transformers
from torch import Tensor


class LlamaForCausalLM(transformers.LlamaForCausalLM):
    """Logits (B, N, V) for tokens (B, N) padded on the right: what stands behind a token does not change its logits."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As timm's models call it: decoder layers run again in the backward pass."""
        if enable:
            self.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.gradient_checkpointing_disable()

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        said: Tensor | None = None,
        **more: Any,
    ) -> Any:
        """Logits where tokens alone are given; else transformers' output.

        With `said` (B, N), of these places alone: (T, V), in order. A vocabulary's logits cost more than a layer.
        """
        if said is not None:
            return self.lm_head(self.model(input_ids, use_cache=False).last_hidden_state[said])
        if attention_mask is None and position_ids is None and not more:
            return super().forward(input_ids, use_cache=False).logits
        return super().forward(input_ids, attention_mask=attention_mask, position_ids=position_ids, **more)
