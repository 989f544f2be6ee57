"""Small language models, in memory or on disk with a tokeniser of a few words: what tests of language start from."""

import tokenizers
import torch
import transformers

from tailor.backbones.llama import LlamaForCausalLM

LETTERS, END = 61, 2


def llama(seed=0, layers=4, width=32, heads=4, kv=2, head_dim=8, theta=1e4, tied=False, **more):
    config = transformers.LlamaConfig(
        vocab_size=LETTERS,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        head_dim=head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=END,
        **more,
    )
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.3 if parameter.ndim == 1 else 1.5 * parameter.shape[-1] ** -0.5
            parameter.copy_(float(parameter.ndim == 1) + spread * torch.randn(parameter.shape, generator=generator))
    return model


def ids(batch=2, length=7, seed=5):
    return torch.randint(3, LETTERS, (batch, length), generator=torch.Generator().manual_seed(seed))


WORDS = ["[PAD]", "[END]", "[OTHER]", "###", "Instruction", "Response", "Input", ":", "say", "a", "b", "c", "d"]


def saved(folder, seed, layers, width):
    """A random Llama with a tokeniser of a few words, in transformers' layout."""
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[OTHER]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[OTHER]", pad_token="[PAD]", eos_token="[END]"
    )
    fast.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return f"causal:{folder}"
