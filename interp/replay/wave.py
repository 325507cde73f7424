"""Rows of changed runs on their way through the layers, all in one call of each layer.

A row joins where it begins to differ. Tokens of all rows lie end to end in one batch row: norms,
projections and MLPs treat them one by one, and attention is answered here, row by row, from the row's
own keys and values and those that the run kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from interp.live import RUN
from interp.replay.attending import Attending, Enough
from interp.replay.capture import NotReplayed, new_run
from interp.replay.changes import EARLY, Change
from interp.replay.packing import Tokens, packed
from interp.replay.rows import Edits, Local, Pack, Row, is_across
from interp.sites import At, Hook


class Wave(Attending):
    """Carries rows from where they enter to the end."""

    def run(self, rows: Sequence[Row]) -> Tensor:
        """What the last layer hands on: [row, d_model] at the read positions, or [row, position, d_model]."""
        total = len(self.kept.layers)
        states = self.kept.stream[0].new_empty(0, self.kept.stream[0].shape[-1])
        last = self.reads is not None
        for layer in range(total):
            states = states.to(self.kept.stream[layer].device)
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
        return torch.cat([states.to(start[0].device), *start])

    def _merge(self, states: Tensor, inside: Tensor, layer: int) -> Tensor:
        """Rows that were changed inside this layer go on with all positions that may differ from here."""
        if not self.local.rows:
            return states
        start = []
        for number, row in enumerate(self.local.rows):
            own = self.kept.stream[layer + 1][row.base, row.start :].clone()
            places = self.local.places[number]
            first = int(self.local.offsets[number])
            own[places - row.start] = inside[first : first + len(places)].to(own)
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
                if is_across(change, self.kept.stack):
                    self.edits.across.setdefault(number, []).append(change)
                elif change.site != "resid_pre" and not reads:
                    self.edits.add(change, self.pack.token(number, change.places), "pack", number)
                elif change.site not in EARLY:
                    self._edit_read(change, row, number, "pack", number)
        shift = len(self.pack.rows) if reads else len(self.pack.owner)
        for number, row in enumerate(self.local.rows):
            for change in row.changes[layer]:
                if reads:
                    self._edit_read(change, row, shift + number, "local", number)
                else:
                    tokens = shift + self.local.token(number, change.places)
                    self.edits.add(change, tokens, "local", number)

    def _edit_read(self, change: Change, row: Row, token: int, where: str, number: int) -> None:
        """A change at the one token of a row that is left."""
        assert self.reads is not None and change.values is not None
        own = change.places == self.reads[row.base]
        if bool(own.any()):
            one = replace(
                change, places=change.places[own], rows=change.rows[own], values=change.values[own]
            )
            self.edits.add(one, torch.full((1,), token), where, number)

    def _call(self, states: Tensor, tokens: Tokens, layer: int) -> Tensor:
        """The layer's own code on packed tokens."""
        call = self.kept.layers[layer]
        self.tokens, self.fresh = tokens, self._fresh(layer)
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

    def _fresh(self, layer: int) -> Tensor | None:
        """Tokens that enter the layer changed; those of rows that only now begin to differ are mostly not."""
        if self.stage == "reads":
            return None
        changed = torch.zeros(len(self.pack.owner) + len(self.local.tokens), dtype=torch.bool)
        for number, row in enumerate(self.pack.rows):
            first = int(self.pack.offsets[number])
            if row.entry < layer:
                changed[first : first + self.kept.positions - row.start] = True
                continue
            for change in row.changes[layer]:
                if change.site == "resid_pre":
                    changed[self.pack.token(number, change.places)] = True
        return None if bool(changed.all()) else changed.nonzero().flatten()

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
            except Enough:
                pass
        self.local = waiting
        if not self.pack.rows and not self.local.rows:
            return self._in_order(rows, [], states)
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
