"""What AGE-VLM computes, written out slowly from its weights: one row, one head, one query at a time."""

import copy

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM


def rms_norm(states, weight, eps):
    return states / (states.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def cross_attention(attention, states, image, hidden=None):
    """Attended states (rows, length, width) and weights (rows, heads, length, tokens).

    `hidden`: per row the visual tokens that are not to be seen.
    """
    config, size = attention.config, attention.config.head_dim
    heads, shared = config.num_attention_heads, config.num_attention_heads // config.num_key_value_heads
    weights = torch.zeros(states.shape[0], heads, states.shape[1], image.shape[1])
    attended = torch.zeros(*states.shape[:2], heads * size)
    for row in range(states.shape[0]):
        seen = [n for n in range(image.shape[1]) if not hidden or n not in hidden[row]]
        for head in range(heads):
            here = slice(head * size, (head + 1) * size)
            there = slice(head // shared * size, (head // shared + 1) * size)
            queries = states[row] @ attention.q_proj.weight[here].T
            keys = image[row, seen] @ attention.k_proj.weight[there].T
            values = image[row, seen] @ attention.v_proj.weight[there].T
            queries = rms_norm(queries, attention.q_norm.weight, config.rms_norm_eps)
            keys = rms_norm(keys, attention.k_norm.weight, config.rms_norm_eps)
            share = (queries @ keys.T / size**0.5).softmax(-1)
            weights[row, head][:, seen] = share
            attended[row, :, here] = share @ values
    return attended @ attention.o_proj.weight.T, weights


def cross_attention_layer(layer, states, image, hidden=None, blind=()):
    """The states after a gated layer. Rows in `blind` have no image."""
    eps = layer.cross_attn.config.rms_norm_eps
    normed = rms_norm(states, layer.input_layernorm.weight, eps)
    attended, _ = cross_attention(layer.cross_attn, normed, image, hidden)
    after = states + torch.tanh(layer.attn_gate) * attended
    if layer.mlp is not None:
        normed, mlp = rms_norm(after, layer.post_attention_layernorm.weight, eps), layer.mlp
        inner = functional.silu(normed @ mlp.gate_proj.weight.T) * (normed @ mlp.up_proj.weight.T)
        after = after + torch.tanh(layer.mlp_gate) * (inner @ mlp.down_proj.weight.T)
    return torch.stack([states[row] if row in blind else after[row] for row in range(len(states))])


def adapter(module, features):
    states = features @ module.linear_1.weight.T + module.linear_1.bias
    if module.linear_2 is not None:
        states = 0.5 * states * (1 + torch.erf(states / 2**0.5))
        states = states @ module.linear_2.weight.T + module.linear_2.bias
    return states if module.visual_positions is None else states + module.visual_positions[None]


def attention_rows(queries, keys, rows, scaling, visible=None):
    """Head-mean attention by a loop over queries, heads and keys; visible: per query, which keys it may see."""
    result = torch.zeros(len(rows), keys.shape[2], dtype=torch.float64)
    shared = queries.shape[1] // keys.shape[1]
    for p, row in enumerate(rows):
        for head in range(queries.shape[1]):
            scores = {}
            for n in range(keys.shape[2]):
                if visible is None or visible[p, n]:
                    scores[n] = scaling * float(queries[p, head].double() @ keys[row, head // shared, n].double())
            top = max(scores.values(), default=0.0)
            total = sum(torch.tensor(s - top).double().exp() for s in scores.values())
            for n, score in scores.items():
                result[p, n] += torch.tensor(score - top).double().exp() / total / queries.shape[1]
    return result


def llama_of(model):
    """The LLaMA inside, as transformers' own class with the weights copied by name."""
    text = model.config.text_config
    own = [i for i in range(text.num_hidden_layers) if i not in text.cross_attention_layers]
    settings = {
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_hidden_layers": len(own),
        "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads,
        "head_dim": text.head_dim,
        "max_position_embeddings": text.max_position_embeddings,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_parameters": dict(text.rope_parameters),
        "tie_word_embeddings": False,
        "pad_token_id": text.pad_token_id,
    }
    llama = LlamaForCausalLM._from_config(LlamaConfig(**settings), attn_implementation=text._attn_implementation).eval()
    stack = model.model.language_model
    with torch.no_grad():
        llama.model.embed_tokens.weight.copy_(stack.embed_tokens.weight)
        llama.model.norm.weight.copy_(stack.norm.weight)
        llama.lm_head.weight.copy_(model.lm_head.weight)
        for mine, theirs in zip(own, llama.model.layers, strict=True):
            weights = dict(stack.layers[mine].named_parameters())
            assert weights.keys() == dict(theirs.named_parameters()).keys()
            for name, weight in theirs.named_parameters():
                weight.copy_(weights[name])
    llama.generation_config = copy.deepcopy(model.generation_config)
    return llama
