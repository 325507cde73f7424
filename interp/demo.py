"""`python -m interp.demo OUT.html`: open a tiny model, trace a prompt, write what was seen.

The model is built from a config and has random weights: the report shows the tool, not a finding.
"""

import sys
import time
from pathlib import Path

TEXT = "the keys of the old house are on the table and the keys of the car are not"


def tiny_model():
    """A four-layer llama with grouped heads that reads words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    import interp
    from interp.families import FAMILIES

    family = FAMILIES["llama"]
    hf = family.model()
    vocabulary = {"<pad>": 0, "<s>": 1, "<unk>": 2}
    for word in TEXT.split():
        vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    reader = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", unk_token="<unk>"
    )
    return interp.wrap(hf, reader)


def report(path: Path) -> str:
    """Write the report and say in a few lines what it holds."""
    from interp import Hook
    from interp.plots import head_map, head_maps, metric_map

    started = time.process_time()
    model = tiny_model()
    prompt = model.encode(TEXT)
    trace = model.trace(prompt, "pattern", keep=["received", "entropy", "distance"])
    peak = trace["received"][:, 0].amax(-1)
    layer, head = divmod(int(peak.argmax()), peak.shape[1])
    silenced = model.logits(prompt, hooks=Hook("z", lambda z, at: z * 0, [layer], heads=[head]))
    moved = float((silenced - trace.logits).detach().abs().max())
    figures = [
        head_maps(trace),
        head_map(trace["pattern", layer][0, head], prompt.tokens[0], f"layer {layer}, head {head}"),
        *(metric_map(trace, name) for name in ("received", "entropy", "distance")),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_page(model, prompt, layer, head, moved, figures), encoding="utf-8")
    points = model.points(prompt)
    return (
        f"{model}\n"
        f"{sum(points['read'])} of {len(points)} sites can be read, "
        f"{sum(points['change'])} changed.\n"
        f"Silencing head {head} of layer {layer} moves a logit by up to {moved:.3f}.\n"
        f"Open it in a browser: {path} ({time.process_time() - started:.1f} s of CPU)"
    )


def _page(model, prompt, layer, head, moved, figures) -> str:
    from html import escape

    plots = [
        figure.to_html(
            full_html=False, include_plotlyjs=index == 0, config={"displayModeBar": False}
        )
        for index, figure in enumerate(figures)
    ]
    code = (
        'trace = model.trace(prompt, "pattern", keep=["received", "entropy", "distance"])\n'
        f'trace["pattern", {layer}][0, {head}]   # one head\n'
        f'model.logits(prompt, hooks=Hook("z", lambda z, at: z * 0, layers=[{layer}], heads=[{head}]))'
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>interp: a first look</title>
<style>body{{font:15px/1.5 Inter,Helvetica,Arial,sans-serif;color:#1f2933;max-width:960px;
margin:2rem auto;padding:0 1rem}}pre{{background:#f5f7fa;padding:.8rem;overflow:auto}}</style>
<h1>A first look</h1>
<p>{escape(repr(model))}, built from a config with <b>random weights</b>: the pictures show what the
tool reads, not what a trained model does.</p>
<p>Prompt: <i>{escape(prompt.text[0])}</i></p>
<pre>{escape(code)}</pre>
<p>Silencing head {head} of layer {layer} moves a logit by up to {moved:.3f}.</p>
{"".join(plots)}
</html>"""


def main() -> None:
    import torch

    torch.set_num_threads(1)  # so small a model loses more to hand-overs than it gains
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "demo/report.html")
    print(report(path))


if __name__ == "__main__":
    main()
