"""Layer-wise relevance propagation as gradient x input, with a backward pass that follows its rules.

    with propagating(model, rule="cp") as propagation:
        logits = model.logits(prompt)
    propagation.relevance(logits[0, -1].max())  # [batch, position]

The rules (Achtibat et al. 2024, AttnLRP): a norm's scale is a constant; an elementwise activation
passes f(x) / x; a product of two activations gives each factor half. "cp" takes patterns as
constants, and of a model without biases the relevances then sum to the answer. "attn" also sends
relevance through the softmax: values get half, queries and keys a quarter each; its sum is only close.

The rules are written into the graph while the model runs, so nothing of the model is changed and no
other thread sees them. `relevance` then walks that graph and refuses the answer if anything on the
way from the positions is not linear and has no rule: no part is ever passed in the ordinary way.
"""

from interp.propagation.passing import RULES, Propagation, propagating

__all__ = ["RULES", "Propagation", "propagating"]
