"""Classes of IOI heads on a transformer where they are known, and roles on the demo model."""

from dataclasses import replace

import pytest
import torch
from known_ioi import LOOKALIKES, SIZE, ioi_model

import interp
from interp.circuits import in_stages, path_effects
from interp.pairs import pairs
from interp.roles import CLASSES, ROLES, ioi_classes, roles
from interp.roles.looking import more
from interp.scoring import score
from interp.task import Record, Task


@pytest.fixture(scope="module")
def known():
    return ioi_model()


@pytest.fixture(scope="module")
def found(known):
    return ioi_classes(known.model, known.task)


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def task():
    return Task.load("ioi", count=40, counterfactual="names")


def heads(table, name, column="class"):
    rows = [name in each.split(", ") for each in table[column]]
    return set(zip(table["layer"][rows], table["head"][rows], strict=True))


def at(table, head):
    return table[(table["layer"] == head[0]) & (table["head"] == head[1])].iloc[0]


def test_the_known_circuit_is_found_and_nothing_else(known, found):
    assert known.classes.keys() == set(CLASSES)
    for name in CLASSES:
        assert heads(found, name) == known.classes[name], name
    assert len(found) == known.model.stacks["text"].heads * known.model.stacks["text"].size


def test_heads_that_only_look_alike_are_in_no_class(known, found):
    for name, head in LOOKALIKES.items():
        assert at(found, head)["class"] == ""
        twin = at(found, min(known.classes[name]))
        for column in found.columns[found.columns.str.contains("->")]:
            if "without" not in column:
                assert at(found, head)[column] == pytest.approx(twin[column], abs=1e-4)


def test_the_counterfactual_tells_nothing_and_the_model_is_right(known):
    scores = score(known.model, known.task)
    assert scores["right"].all()
    other = score(known.model, known.task, counterfactual=True)
    assert other["difference"].abs().max() < 1e-3


def test_attention_is_the_models_own(known, found):
    from transformers import GPT2LMHeadModel

    config = known.model.hf.config.__class__.from_dict(known.model.hf.config.to_dict())
    config._attn_implementation = "eager"
    plain = GPT2LMHeadModel(config).eval()
    plain.load_state_dict(known.model.hf.state_dict())
    shares = []
    for record in known.task:
        words = record.prompt.split()
        ids = torch.tensor([[int(word[1:]) for word in words]])
        first = words.index(record.text("S1"))
        with torch.no_grad():
            maps = torch.stack(plain(ids, output_attentions=True).attentions)[:, 0]
        io = words.index(record.text("IO"))
        shares.append(torch.stack([maps[:, :, -1, io], maps[:, :, 5, first + 1]]))
    end_io, induction = torch.stack(shares).mean(0).flatten(1)
    assert torch.allclose(torch.tensor(found["END->IO"]), end_io, atol=1e-5)
    assert torch.allclose(torch.tensor(found["S2->S1+1"]), induction, atol=1e-5)


def test_effects_are_those_of_path_patching(known, found):
    pair = next(pairs(known.model, known.task, "a test", 40))
    metric = pair.metric(known.model)
    for column, receivers, position in (
        ("logits", "logits", "last"),
        ("queries", [(3, 1, "q"), (3, 4, "q")], "last"),
        ("keys at S1+1", [(1, 3, "k")], [2, 4]),
    ):
        if column == "keys at S1+1":  # the word after S1 is the third or the fifth
            after = torch.zeros_like(pair.clean.mask)
            for row, record in enumerate(pair.records):
                after[row, record.prompt.split().index(record.text("S1")) + 1] = True
            position = after
        own = path_effects(
            known.model, pair.clean, pair.corrupted, metric, None, receivers, "ioi", position
        )
        shares = -own.raw.mean(1) / own.clean.mean()
        for sender, share in zip(own.senders, shares.tolist(), strict=True):
            row = at(found, (sender.layer, sender.head))
            assert row[column] == pytest.approx(share, abs=1e-5)
            assert row[f"{column}_low"] <= row[column] <= row[f"{column}_high"]


def test_backups_are_measured_with_name_movers_at_their_means(known, found):
    """By hand, in plain forwards: the backup stands in the last layer, so that its own output is its path."""
    hf, movers = known.model.hf, sorted(known.classes["name mover"])
    layer, head = next(iter(known.classes["backup name mover"]))
    ids = [
        torch.tensor([[int(word[1:]) for word in text.split()] for text in texts])
        for texts in zip(*[(one.prompt, one.counterfactual) for one in known.task], strict=True)
    ]
    right, wrong = (
        torch.tensor([int(side[0].strip()[1:]) for side in sides])
        for sides in ([one.answers for one in known.task], [one.wrong for one in known.task])
    )
    rows = torch.arange(len(right))

    def run(words, put):
        """Logit differences, and what each layer's projection was given."""
        seen, hooks = {}, []
        for number, block in enumerate(hf.transformer.h):

            def before(module, given, number=number):
                value = given[0].clone()
                for (at_layer, at_head), (places, new) in put.items():
                    if at_layer == number:
                        value[:, places, at_head * SIZE : (at_head + 1) * SIZE] = new
                seen[number] = value
                return (value,)

            hooks.append(block.attn.c_proj.register_forward_pre_hook(before))
        with torch.no_grad():
            logits = hf(words).logits[:, -1]
        for hook in hooks:
            hook.remove()
        return logits[rows, right] - logits[rows, wrong], seen

    def part(seen, one):
        return seen[one[0]][..., one[1] * SIZE : (one[1] + 1) * SIZE]

    corrupted = run(ids[1], {})[1]
    silent = {one: (slice(None), part(corrupted, one).mean(0)) for one in movers}
    knocked = run(ids[0], silent)[0]
    other = part(run(ids[1], silent)[1], (layer, head))[:, -1]
    patched = run(ids[0], {**silent, (layer, head): (-1, other)})[0]
    whole = run(ids[0], {})[0].mean()
    share = float((knocked - patched).mean() / whole)
    assert at(found, (layer, head))["without movers"] == pytest.approx(share, abs=1e-4)
    assert share > 0.5 and abs(at(found, (layer, head))["logits"]) < 1e-3


def test_classes_without_heads_say_why(known):
    table = ioi_classes(known.model, known.task, attends=1.1)
    assert set(table["class"]) == {""}
    notes = " ".join(table.attrs["notes"])
    assert "name mover: no head meets the rule." in notes
    assert "S-inhibition: not asked for, since there is no name mover head to feed." in notes
    assert "previous token: not asked for, since there is no induction head to feed." in notes
    assert "backup name mover: not asked for, since there is no name mover to knock out." in notes


def test_keys_of_s_inhibition_may_receive_too(known, found):
    both = ioi_classes(known.model, known.task[:8], inputs="vk")
    assert heads(both, "induction") == known.classes["induction"]
    assert "values and keys at S2" in both and "values and keys at S2" not in found


def test_the_place_after_s1_is_found_where_it_has_no_name(known):
    bare = []
    for record in known.task[:12]:
        kept = {name: place for name, place in record.spans.items() if name != "S1+1"}
        bare.append(replace(record, spans=kept))
    again = ioi_classes(known.model, Task("ioi", tuple(bare)))
    assert again.equals(ioi_classes(known.model, known.task[:12]))


def test_batches_do_not_matter(known):
    found = ioi_classes(known.model, known.task[:12])
    again = ioi_classes(known.model, known.task[:12], batch=5)
    assert list(again["class"]) == list(found["class"])
    numbers = found.select_dtypes("number").columns
    assert torch.allclose(
        torch.tensor(again[numbers].to_numpy(float)),
        torch.tensor(found[numbers].to_numpy(float)),
        atol=1e-4,
        equal_nan=True,
    )


def test_the_demo_model_solves_it_otherwise(demo, task):
    table = ioi_classes(demo, task)
    assert len(table) == 32
    assert heads(table, "S-inhibition") == set()
    notes = " ".join(table.attrs["notes"])
    for name in CLASSES:
        assert f"{name}: " in notes
    strongest = at(table, (2, 1))  # it looks at the name that came twice, and writes against it
    assert strongest["logits_low"] > 0.4 and strongest["END->S2"] > 0.9
    assert strongest["copies_against"] > 0.5 and strongest["class"] == ""


def test_roles_of_the_known_circuit(known):
    table = roles(known.model, known.task)
    assert heads(table, "mover", "role") == known.classes["name mover"]
    assert heads(table, "negative mover", "role") == known.classes["negative name mover"]
    assert heads(table, "inhibition", "role") == known.classes["S-inhibition"]
    for name in ("induction", "duplicate token", "previous token"):
        assert heads(table, name, "role") == known.classes[name]
    assert at(table, (0, 4))["stage"] == "keys" and at(table, (2, 2))["stage"] == "queries"
    assert at(table, (4, 0))["sign"] == "works against" and at(table, (3, 1))["looks"] == "IO"
    assert set(table["role"][table["stage"] == ""]) == {""}


def test_roles_in_colored_objects(demo):
    table = roles(demo, Task.load("colored_objects", shots=0, count=30))
    assert at(table, (3, 3))["stage"] == "logits" and at(table, (3, 3))["sign"] == "supports"
    gatherer = at(table, (1, 3))
    assert (gatherer["role"], gatherer["looks"]) == ("gatherer", "asked")
    assert set(table["role"]) <= {*ROLES, ""}
    parts = table[["right", "wrong", "looks_share", "previous", "duplicate", "induction", "own"]]
    assert ((parts >= 0) & (parts <= 1 + 1e-5)).all().all()
    for name in ("logits", "queries"):
        kept = table[table[name].notna()]
        assert (kept[f"{name}_low"] <= kept[name]).all() and (
            kept[name] <= kept[f"{name}_high"]
        ).all()


def test_stages_that_are_known_are_not_run_again(known, monkeypatch):
    task = known.task[:12]
    stages = in_stages(known.model, task, share=0.12, least=0.02)
    own = roles(known.model, task)
    monkeypatch.setattr("interp.roles.general.in_stages", None)
    assert roles(known.model, task, found=stages).equals(own)


def test_attention_that_is_not_told_from_chance_is_no_more(known):
    """One that always looks at the first name looks at the right one in half of the records."""
    some, other = torch.zeros(2, 40, 1, 2)
    some[::2, 0, 0], other[1::2, 0, 0] = 1.0, 1.0
    some[:, 0, 1] = 0.2
    assert more(some, other).tolist() == [[False, True]]
    assert more(other, some).tolist() == [[False, False]]


def test_heads_are_chosen(known):
    table = roles(known.model, known.task[:8], ["2.2", (3, 1)])
    assert list(zip(table["layer"], table["head"], strict=True)) == [(2, 2), (3, 1)]
    with pytest.raises(LookupError, match=r"9\.9"):
        roles(known.model, known.task[:8], ["9.9"])


def test_what_cannot_be_told_is_refused(known, demo, task):
    with pytest.raises(LookupError, match="no span IO, S1, S2"):
        ioi_classes(demo, Task.load("facts", count=4))
    with pytest.raises(ValueError, match="three other names"):
        ioi_classes(demo, Task.load("ioi", count=4, counterfactual="flip"))
    longer = replace(task[0], counterfactual=f"{task[0].counterfactual} the")
    for ask in (ioi_classes, roles):
        with pytest.raises(ValueError, match="tokens and its counterfactual"):
            ask(demo, Task("ioi", (longer,)))
        with pytest.raises(TypeError):
            ask(demo, 3)
    with pytest.raises(LookupError, match="inputs of S-inhibition"):
        ioi_classes(demo, task, inputs="q")
    with pytest.raises(ValueError, match="batch=0"):
        ioi_classes(demo, task, batch=0)
    with pytest.raises(ValueError, match="batch=0"):
        roles(demo, task, batch=0)
    swapped = tuple(
        replace(one, answers=one.wrong, wrong=one.answers) for one in known.task.records[:8]
    )
    with pytest.raises(ValueError, match="does not do this task"):
        ioi_classes(known.model, Task("ioi", swapped))


def test_models_of_images_alone_are_refused():
    vision = interp.load("demo-vit")
    for ask in (ioi_classes, roles):
        with pytest.raises(ValueError, match="writes the next word"):
            ask(vision, Task("ioi", (Record("a"),)))
