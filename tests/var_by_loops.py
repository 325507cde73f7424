"""VAR's formulas in loops over numbers, and the hooks of its plan called by hand."""

import itertools
import math
import warnings

import torch

import interp
from interp.families import FAMILIES
from interp.live import Run
from interp.sites import At

STRONG = {"keep": 0.0, "rho": 0.0, "mass": 0.0, "tau": 1.0, "dims": [0, 1], "text_sinks": True}


def opened(name="llava", batch=1, length=12):
    family = FAMILIES[name]
    hf = family.model()
    hf.generation_config.eos_token_id = None
    hf.generation_config.suppress_tokens = [hf.config.image_token_id]
    model = interp.wrap(hf)
    return model, interp.Prompt.from_inputs(model, family.inputs(hf, batch=batch, length=length))


def phi(x, dims):
    size = math.sqrt(sum(float(each) ** 2 for each in x) / len(x) + 1e-6)
    return max(abs(float(x[d])) / size for d in dims)


def sinks_of(stream, real, dims, tau):
    """Positions of one text; without dims, the two largest channels of its first token that reach tau."""
    if dims is None:
        first = stream[min(real)]
        sizes = {d: phi(first, [d]) for d in range(len(first))}
        dims = [d for d in sorted(sizes, key=lambda d: -sizes[d])[:2] if sizes[d] >= tau]
    return {t for t in real if dims and phi(stream[t], dims) >= tau}


def redistributed(row, image, sinks, keep, rho, mass, text_sinks):
    """One row of weights of one head."""
    row = [float(weight) for weight in row]
    visual, text = sinks & image, sinks - image
    if not visual and not text_sinks:
        return row
    seen = sum(row[k] for k in image)
    ratio = sum(row[k] for k in visual) / (seen + len(image) * 1e-6)
    others = sum(row[k] for k in image - visual)
    if seen < mass or 1 - ratio < rho or others == 0:
        return row
    omega = (1 - keep) * sum(row[k] for k in visual | text)
    changed = list(row)
    for k in visual | text:
        changed[k] = keep * row[k]
    for k in image - visual:
        changed[k] = row[k] + omega * row[k] / others
    return changed


def expected(pattern, stream, prompt, rows, **settings):
    """A whole pattern [batch, head, query, key] of one layer, whose queries begin at position 0."""
    after = pattern.clone()
    dims, tau = settings.pop("dims"), settings.pop("tau")
    for b, head in itertools.product(range(pattern.shape[0]), range(pattern.shape[1])):
        image = set(prompt.where("image")[b].nonzero().flatten().tolist())
        real = prompt.mask[b].nonzero().flatten().tolist()
        sinks = sinks_of(stream[b], real, dims, tau)
        for q in rows[b]:
            changed = redistributed(pattern[b, head, q], image, sinks, **settings)
            after[b, head, q] = torch.tensor(changed, dtype=pattern.dtype)
    return after


def behind(prompt):
    """Real rows behind the image, of each text."""
    found = []
    for b in range(len(prompt)):
        last = int(prompt.where("image")[b].nonzero().max())
        found.append([q for q in range(last + 1, prompt.length) if prompt.mask[b, q]])
    return found


class By:
    """The hooks of one plan, called by hand: a run of one layer."""

    def __init__(self, method, model, prompt, counting=False):
        self.hooks = method.plan(model, prompt)[1]
        self.memo = {"counting": True} if counting else {}
        self.run, self.layer = Run(), self.hooks[0].layers[-1]

    def at(self, site, first):
        return At(site, "text", self.layer, first, 0, True, self.memo, self.run)

    def stream(self, value, first=0):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self.hooks[0].fn(value, self.at("resid_pre", first))

    def pattern(self, value, first=0):
        """As a hook sees it that is shown rows from `within` on."""
        start = max(0, self.hooks[1].within[0] - first)
        part = value[:, :, start:]
        changed = self.hooks[1].fn(part, self.at("pattern", first + start))
        return value if changed is None else torch.cat([value[:, :, :start], changed], 2)
