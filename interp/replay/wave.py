"""Rows of changed runs on their way through the layers, all in one call of each layer.

A row joins where it begins to differ. Tokens of all rows lie end to end in one batch row: norms,
projections and MLPs treat them one by one, and attention is answered here, row by row, from the row's
own keys and values and those that the run kept.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp.live import RUN, Carrier, Place
from interp.replay.attention import changed_run, over_reads, over_rows, over_run, row_values
from interp.replay.capture import Attended, Captured, NotReplayed, new_run
from interp.replay.changes import Change
from interp.replay.packing import Tokens, packed
from interp.replay.rows import Edits, Local, Pack, Row, is_across
from interp.sites import At, Hook


class _Enough(Exception):
    """Keys and values are known, and nothing else of this layer is wanted."""


class Wave(Carrier):
    """`reads` [batch]: the one position of each row that is read in the end; None for all of them."""

    def __init__(self, kept: Captured, reads: Tensor | None):
        self.kept, self.reads = kept, reads
        self.pack = Pack([], kept.positions)
        self.local = Local()
        self.edits = Edits()
        self.size = 0  # tokens of the pack in the call that is running
        self.stage = "all"  # or "keys" (stop when they are known), "reads" (only what is read)
        self.mine = (torch.empty(0), torch.empty(0))  # keys and values of the rows under way

    def run(self, rows: Sequence[Row]) -> Tensor:
        """What the last layer hands on: [row, d_model] at the read positions, or [row, position, d_model]."""
        total = len(self.kept.layers)
        states = self.kept.stream[0].new_empty(0, self.kept.stream[0].shape[-1])
        last = self.reads is not None
        for layer in range(total):
            joining = [row for row in rows if row.entry == layer]
            states = self._join(states, [row for row in joining if row.early], layer)
            self.local = Local([row for row in joining if not row.early])
            if not self.pack.rows and not self.local.rows:
                continue
            if last and layer == total - 1:
                return self._finish(rows, states, layer)
            states, inside = self._layer(states, layer)
            states = self._merge(states, inside, layer)
        return self._finish_outside(rows, states, total)

    # Joining

    def _join(self, states: Tensor, early: list[Row], layer: int) -> Tensor:
        """Rows that differ from this layer's input on, or from its keys and values."""
        if early:
            start = [self.kept.stream[layer][row.base, row.start :] for row in early]
            states = self._repack(states, early, start)
        for number, row in enumerate(self.pack.rows):
            for change in row.changes.get(layer, ()):
                if change.site == "resid_pre":
                    assert change.values is not None
                    tokens = self.pack.token(number, change.places)
                    states[tokens] = change.values.to(states)
        return states

    def _repack(self, states: Tensor, joining: list[Row], start: list[Tensor]) -> Tensor:
        self.pack = Pack([*self.pack.rows, *joining], self.kept.positions)
        return torch.cat([states, *start])

    def _merge(self, states: Tensor, inside: Tensor, layer: int) -> Tensor:
        """Rows that were changed inside this layer go on with all positions that may differ from here."""
        if not self.local.rows:
            return states
        start = []
        for number, row in enumerate(self.local.rows):
            own = self.kept.stream[layer + 1][row.base, row.start :].clone()
            places = self.local.places[number]
            first = int(self.local.offsets[number])
            own[places - row.start] = inside[first : first + len(places)]
            start.append(own)
        return self._repack(states, self.local.rows, start)

    # One layer

    def _layer(self, states: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """The layer's output for the pack's tokens, and for those of rows that enter inside it."""
        own = self.local.tokens
        inside = own.of(self.kept.stream[layer])
        tokens = Tokens(
            torch.cat([self.pack.tokens.rows, own.rows]),
            torch.cat([self.pack.tokens.places, own.places]),
        )
        self._place_edits(layer)
        self.stage, self.size = "all", len(states)
        output = self._call(torch.cat([states, inside]), tokens, layer)
        return output[: self.size], output[self.size :]

    def _place_edits(self, layer: int, reads: bool = False) -> None:
        """This layer's changes as places among its tokens; `reads`: only those at read positions count."""
        self.edits = Edits()
        for number, row in enumerate(self.pack.rows):
            for change in row.changes.get(layer, ()):
                if change.site == "resid_pre":
                    continue
                if is_across(change, self.kept.stack):
                    self.edits.across.setdefault(number, []).append(change)
                    continue
                tokens = self.pack.token(number, change.places)
                if reads and change.site not in ("k", "v"):
                    assert self.reads is not None
                    own = change.places == self.reads[row.base]
                    if not bool(own.any()):
                        continue
                    assert change.values is not None
                    tokens = torch.full((1,), number)
                    change = _at_one(change, own)
                self.edits.add(change, tokens, "pack", number)
        shift = len(self.pack.rows) if reads else len(self.pack.owner)
        for number, row in enumerate(self.local.rows):
            for change in row.changes[layer]:
                places = change.places
                if reads:
                    assert self.reads is not None
                    own = places == self.reads[row.base]
                    if not bool(own.any()):
                        continue
                    change = _at_one(change, own)
                    tokens = torch.full((1,), shift + number)
                else:
                    tokens = shift + self.local.token(number, places)
                self.edits.add(change, tokens, "local", number)

    def _call(self, states: Tensor, tokens: Tokens, layer: int) -> Tensor:
        """The layer's own code on packed tokens."""
        call = self.kept.layers[layer]
        given = packed(call.given, tokens, self.kept.batch, self.kept.positions)
        given[call.stream] = states[None]
        run = new_run(self.kept.prompt, 1, len(states))
        token = RUN.set(run)
        try:
            output = call.module(**given)
        finally:
            RUN.reset(token)
        output = output[0] if isinstance(output, tuple) else output
        if output.shape != states[None].shape:
            raise NotReplayed(f"a layer made {tuple(output.shape)} of {tuple(states[None].shape)}")
        if call.added is not None:
            return output[0] + tokens.of(call.added)
        return output[0]

    def hooks(self, rows: Sequence[Row]) -> Iterator[Hook]:
        """What changes the outputs of projections and MLPs, wherever one of the rows asks for it."""
        every = (change for row in rows for changes in row.changes.values() for change in changes)
        wanted = {(change.stack, change.site) for change in every}
        for stack, site in sorted(wanted):
            if site in ("attn_out", "mlp_out"):
                yield Hook(site, self._put, stack=stack)

    def _put(self, value: Tensor, at: At) -> Tensor | None:
        if not self.edits.has(at.stack, at.site):
            return None
        changed = value.clone()
        self.edits.put(at.stack, at.site, changed[0])
        return changed

    # The last layer

    def _finish(self, rows: Sequence[Row], states: Tensor, layer: int) -> Tensor:
        """Keys and values of all tokens, and everything else of the read positions alone."""
        assert self.reads is not None
        reads = self.reads[self.pack.bases]
        waiting = self.local.only(self.reads)
        self.local = Local()
        self._place_edits(layer)
        if self.pack.rows and (self.kept.stack, layer) in self.kept.attended:
            self.stage, self.size = "keys", len(states)
            try:
                self._call(states, self.pack.tokens, layer)
                raise NotReplayed("the last layer never came to its attention")
            except _Enough:
                pass
        self.local = waiting
        self._place_edits(layer, reads=True)
        theirs = self.reads[torch.tensor([row.base for row in self.local.rows], dtype=torch.long)]
        bases = torch.tensor([row.base for row in self.local.rows], dtype=torch.long)
        tokens = Tokens(torch.cat([self.pack.bases, bases]), torch.cat([reads, theirs]))
        at = self.pack.offsets + reads - self.pack.starts
        inside = Tokens(bases, theirs).of(self.kept.stream[layer])
        self.stage, self.size = "reads", len(self.pack.rows)
        output = self._call(torch.cat([states[at], inside]), tokens, layer)
        done = [*self.pack.rows, *self.local.rows]
        return self._in_order(rows, done, output)

    def _in_order(self, rows: Sequence[Row], done: list[Row], output: Tensor) -> Tensor:
        """The read states in the order in which the rows were given; of those not run, the run's own."""
        assert self.reads is not None
        final = self.kept.stream[-1]
        places = {id(row): number for number, row in enumerate(done)}
        kept = torch.stack([final[row.base, self.reads[row.base]] for row in rows])
        for number, row in enumerate(rows):
            if id(row) in places:
                kept[number] = output[places[id(row)]]
            for change in row.changes.get(len(self.kept.layers), ()):
                own = change.places == self.reads[row.base]
                if bool(own.any()):
                    assert change.values is not None
                    kept[number] = change.values[own][0].to(kept)
        return kept

    def _finish_outside(self, rows: Sequence[Row], states: Tensor, total: int) -> Tensor:
        """After all layers, where the last one was not cut short."""
        if self.reads is not None:
            return self._in_order(rows, [], states)
        final = self.kept.stream[-1]
        whole = torch.stack([final[row.base] for row in rows])
        order = {id(row): number for number, row in enumerate(rows)}
        for number, row in enumerate(self.pack.rows):
            first = int(self.pack.offsets[number])
            size = self.kept.positions - row.start
            whole[order[id(row)], row.start :] = states[first : first + size]
        for number, row in enumerate(rows):
            for change in row.changes.get(total, ()):
                assert change.values is not None
                whole[number, change.places] = change.values.to(whole)
        return whole

    # Attention, when a layer asks for it

    def attention(self, passage: Any, call: Callable[[], Any], parts: tuple) -> Any:
        place: Place = passage.place
        kept = self.kept.attended.get((place.stack, place.layer))
        if kept is None:
            raise NotReplayed(f"the {place.stack} stack was not kept")
        query, key, value, _ = parts
        if query.shape[0] != 1:
            raise NotReplayed("its attention is called with several rows for packed tokens")
        query = self._edited(place.stack, "q", query[0].transpose(0, 1))
        if place.stack == self.kept.stack:
            mixed = self._own(kept, query, key[0].transpose(0, 1), value[0].transpose(0, 1))
        elif self.stage == "keys":
            raise NotReplayed("cross attention comes before its layer's own")
        else:
            mixed = self._across(kept, query)
        mixed = self._patterned(kept, mixed, place.stack)
        return self._edited(place.stack, "z", mixed)[None]

    def _edited(self, stack: str, site: str, value: Tensor) -> Tensor:
        return self.edits.put(stack, site, value.clone()) if self.edits.has(stack, site) else value

    def _own(self, kept: Attended, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Self-attention: rows under way over their own keys, rows just entering as the run had it."""
        size, stack, found = self.size, self.kept.stack, []
        if self.pack.rows:
            if self.stage == "reads":
                keys, values = self.mine
                reads = self.reads
                assert reads is not None
                found.append(
                    over_reads(
                        kept, query[:size], keys, values, self.pack.bases, reads[self.pack.bases]
                    )
                )
            else:
                keys = row_values(kept.call.key, self._edited(stack, "k", key[:size]), self.pack)
                values = row_values(
                    kept.call.value, self._edited(stack, "v", value[:size]), self.pack
                )
                self.mine = keys, values
                if self.stage == "keys":
                    raise _Enough
                found.append(over_rows(kept, query[:size], keys, values, self.pack))
        if len(query) > size:
            found.append(self._entering(kept, query))
        return torch.cat(found) if len(found) > 1 else found[0]

    def _inside(self) -> Tokens:
        """The positions of rows that enter inside this layer."""
        if self.stage != "reads":
            return self.local.tokens
        assert self.reads is not None
        bases = torch.tensor([row.base for row in self.local.rows], dtype=torch.long)
        return Tokens(bases, self.reads[bases])

    def _entering(self, kept: Attended, query: Tensor) -> Tensor:
        """What the run mixed there, and anew where a query was changed."""
        tokens = self._inside()
        mixed = tokens.of(kept.output)
        asked = self.edits.tokens(self.kept.stack, "q")
        asked = asked[asked >= self.size] - self.size
        if len(asked):
            mixed = mixed.clone()
            own = Tokens(tokens.rows[asked], tokens.places[asked])
            mixed[asked] = over_run(kept, query[self.size :][asked], own)
        return mixed

    def _across(self, kept: Attended, query: Tensor) -> Tensor:
        """Cross attention: what it looks at does not change."""
        inside = self._inside()
        if self.stage == "reads":
            assert self.reads is not None
            rows, places = self.pack.bases, self.reads[self.pack.bases]
        else:
            rows, places = self.pack.tokens.rows, self.pack.tokens.places
        tokens = Tokens(torch.cat([rows, inside.rows]), torch.cat([places, inside.places]))
        mixed = over_run(kept, query, tokens)
        for number, changes in self.edits.across.items():
            own = (
                self.pack.owner == number
                if self.stage != "reads"
                else torch.arange(self.size) == number
            )
            own = torch.cat([own, own.new_zeros(len(query) - self.size)])
            base = self.pack.rows[number].base
            mine = changed_run(kept, base, changes)
            mixed[own] = over_run(
                mine, query[own], Tokens(torch.zeros_like(tokens.rows[own]), tokens.places[own])
            )
        return mixed

    def _patterned(self, kept: Attended, mixed: Tensor, stack: str) -> Tensor:
        """Rows of the pattern that were replaced, laid on the values that the row has."""
        for owner, where, number, tokens, change in self.edits.patterns:
            if owner != stack:
                continue
            row = (self.pack if where == "pack" else self.local).rows[number]
            if where == "pack" and stack == self.kept.stack:
                values = self.mine[1][number]  # [position, kv_head, width]
            else:
                values = kept.call.value[row.base].transpose(0, 1)
            heads = torch.arange(mixed.shape[1]) if change.heads is None else change.heads
            groups = mixed.shape[1] // values.shape[1]
            assert change.values is not None
            own = values[:, heads // groups].to(mixed)
            mixed[tokens[:, None], heads] = torch.einsum(
                "nhk,khd->nhd", change.values.to(mixed), own
            )
        return mixed


def _at_one(change: Change, own: Tensor) -> Change:
    assert change.values is not None
    values = change.values[own]
    return replace(change, places=change.places[own], rows=change.rows[own], values=values)
