"""Early exit written plainly: one row, no cache, no batch, every distribution whole, every token the whole prefix anew.

Layers, norms and heads are the library's own. What the loop does in fewer steps must come to the same.
"""

import math

import torch

from decoding.policy import Policy
from decoding.pruning import Given
from support import VOCABULARY, translated

# model_type -> the name of its stack of decoder layers; of Llama and its kin where none is given.
LAYERS = {
    "t5": "decoder.block",
    "mt5": "decoder.block",
    "longt5": "decoder.block",
    "gpt2": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "opt": "model.decoder.layers",
}
END = 1


# ------------------------------------------------------------------------------------------------------------- measures
def jsd(p, q):
    """Jensen-Shannon divergence of distributions without zeros."""
    m = (p + q) / 2
    return (p * (p / m).log() + q * (q / m).log()).sum() / 2


def gap(p):
    top = p.topk(2).values
    return float(top[0] - top[1])


def contrast(name, layers, alpha, kept, before):
    """s over the vocabulary, layer by layer.

    Args:
        layers: Logits [l + 1, V].
        kept: Tokens surviving at l, bool [V].
        before: layer -> tokens surviving there, for exits after the first; p_j is the whole distribution elsewhere.
    """
    layer, layers = len(layers) - 1, layers.double()

    def distribution(j, rows):
        return layers[j].masked_fill(~rows, -torch.inf).softmax(-1)

    p = distribution(layer, kept)
    head = kept & (p >= alpha * p.max())
    if layer < (3 if name.startswith("JSD") else 2):
        return p
    amateur = layer // 2
    if name.startswith("JSD"):
        rows, scope = (kept, kept) if name.endswith("text") else (torch.ones_like(kept), head)
        others = {j: distribution(j, rows if name.endswith("text") else before.get(j, rows)) for j in range(2, layer)}
        amateur = max(others, key=lambda j: jsd(p[scope], others[j][scope]) / (layer - j))
    inside = (layers[layer] - layers[amateur])[head].softmax(-1)
    if name.startswith("reweight") or name.endswith("text"):
        inside = inside * p[head].sum()
    s = torch.zeros_like(p) if name == "reweight_contrastive_decoding" else p.clone()
    s[head] = inside
    return s


def entropy(p, kept):
    return 1 + float((p[p > 0] * p[p > 0].log()).sum()) / math.log(int(kept.sum()))


class Exit:
    """What the measures read at one layer of a token: logits of the layers so far, states, and the surviving tokens."""

    def __init__(self, policy: Policy, logits, states, kept: dict[int, torch.Tensor], last):
        self.policy, self.logits, self.states, self.last = policy, logits, states, last
        self.layer = len(logits) - 1
        self.kept = kept[self.layer]
        self.before = {layer: rows for layer, rows in kept.items() if layer < self.layer}

    @property
    def p(self):
        return self.logits[-1].masked_fill(~self.kept, -torch.inf).softmax(-1)

    @property
    def s(self):
        return contrast(self.policy.confidence, self.logits, self.policy.alpha, self.kept, self.before)

    @property
    def confidence(self) -> float:
        plain = {
            "softmax": lambda: gap(self.p),
            "max_prob": lambda: float(self.p.max()),
            "entropy": lambda: entropy(self.p, self.kept),
            "state": lambda: float(torch.cosine_similarity(self.states[-1], self.states[-2], dim=0)),
            "oracle": lambda: float(self.p.argmax() == self.last.argmax()),
        }
        return plain.get(self.policy.confidence, lambda: gap(self.s))()

    @property
    def token(self) -> int:
        return int((self.s if self.policy.emits_contrast else self.p).argmax())


# ----------------------------------------------------------------------------------------------------------- the decode
class Naive:
    """A position passes a layer only if it ran that deep; else its state stays as it was, and the layer makes keys and
    values of that, which is what copying amounts to. Under recompute all keys and values are the full model's.

    Args:
        prompt: Token ids of the encoder's input, or of the text to continue; one row without padding.
    """

    def __init__(self, model, prompt: list[int], policy: Policy, length: int):
        self.model, self.policy, self.length = model, policy, length
        self.encodes = model.config.is_encoder_decoder
        self.layers = model.get_submodule(LAYERS.get(model.config.model_type, "model.layers"))
        self.norm = model.get_submodule("decoder.final_layer_norm" if self.encodes else model.final_norm)
        self.prompt = torch.tensor([prompt])
        self.tokens = [0] if self.encodes else prompt
        self.given = len(self.tokens)

    def states(self, depths: list[int]):
        """h^0 to h^L of the last of the tokens so far, [L + 1, D], when the ones before ran `depths` layers."""
        ran, kept = torch.tensor([*depths, len(self.layers)]), []

        def stay(layer):
            def hook(module, args, kwargs, output):
                below = args[0] if args else kwargs["hidden_states"]
                first, *rest = output if isinstance(output, tuple) else (output,)
                states = torch.where((ran >= layer)[:, None], first, below)
                kept.extend([below[0, -1]] * (layer == 1) + [states[0, -1]])
                return (states, *rest) if isinstance(output, tuple) else states

            return hook

        hooks = [
            module.register_forward_hook(stay(layer), with_kwargs=True) for layer, module in enumerate(self.layers, 1)
        ]
        text = torch.tensor([self.tokens])
        inputs = {"input_ids": self.prompt, "decoder_input_ids": text} if self.encodes else {"input_ids": text}
        self.model(**inputs, use_cache=False)
        for hook in hooks:
            hook.remove()
        return torch.stack(kept)

    @torch.no_grad()
    def generate(self) -> tuple[list[int], list[int]]:
        """Tokens of the answer, and the layers each ran; `confidences` are those of every exit it tried, in order."""
        depth = len(self.layers)
        depths, exits, pending = [depth] * (self.given - 1), [], 0
        self.confidences: list[float] = []
        while len(exits) < self.length:
            states = self.states([depth] * len(depths) if self.policy.recomputes else depths)
            read = torch.stack([translated(self.model, hidden, layer) for layer, hidden in enumerate(states)])
            logits = self.model.lm_head(self.norm(read) * self.model.output_scale)
            prefilled = not exits and not self.encodes
            free = not prefilled and pending < (self.policy.num_speculations or self.length)
            layer, token = self.leave(logits, states, len(exits) + 1) if free else (depth, int(logits[-1].argmax()))
            pending = 0 if layer == depth else pending + 1
            self.tokens = [*self.tokens, token]
            depths.append(layer)
            exits.append(layer)
            if token == END:
                break
        return self.tokens[self.given :], exits

    def leave(self, logits, states, position: int) -> tuple[int, int]:
        """The first layer whose confidence is above the threshold, and the token there; the last where none is."""
        policy, depth = self.policy, len(self.layers)
        if policy.static_exit:
            return policy.static_exit, int(logits[policy.static_exit].argmax())
        held, pruning = {}, policy.pruning_settings(depth, VOCABULARY)
        kept = torch.ones(VOCABULARY, dtype=torch.bool)
        if policy.first is not None:
            given = Given([torch.tensor(self.prompt[0].tolist() + self.tokens[: self.given])], [END])
            kept = torch.isin(torch.arange(VOCABULARY), policy.first(pruning, given)[0])
            held.update(dict.fromkeys(range(policy.first_exit), kept))
        for layer in policy.exit_layers(depth):
            held[layer] = kept
            exit = Exit(policy, logits[: layer + 1], states[: layer + 1], held, logits[-1])
            self.confidences.append(exit.confidence)
            if self.confidences[-1] > policy.threshold_at(position, self.length):
                return layer, exit.token
            if policy.prunes:
                k = policy.schedule(pruning, layer + 1, self.confidences[-1])
                k = max(2, min(k, int(kept.sum())))
                kept = torch.zeros_like(kept)
                kept[exit.p.topk(k).indices] = True
        return depth, int(logits[-1].argmax())
