"""Attention of rows under way, when a layer asks for it: from their own keys and values and the run's."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp.live import Place
from interp.replay.attention import changed_run, over_reads, over_rows, over_run, row_values
from interp.replay.capture import Attended, Captured, NotReplayed
from interp.replay.packing import Tokens
from interp.replay.pieces import InPieces
from interp.replay.rows import Edits, Local, Pack


class Enough(Exception):
    """Keys and values are known, and nothing else of this layer is wanted."""


class Attending(InPieces):
    """`reads` [batch]: the one position of each row that is read in the end; None for all of them."""

    def __init__(self, kept: Captured, reads: Tensor | None):
        self.kept, self.reads = kept, reads
        self.projected = kept.projected
        self.pack = Pack([], kept.positions)
        self.local = Local()
        self.edits = Edits()
        self.size = 0  # tokens of the pack in the call that is running
        self.stage = "all"  # or "keys" (stop when they are known), "reads" (only what is read)
        self.mine = (torch.empty(0), torch.empty(0))  # keys and values of the rows under way

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
                    raise Enough
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
            elif where == "pack" and number in self.edits.across:
                mine = changed_run(kept, row.base, self.edits.across[number])
                values = mine.call.value[0].transpose(0, 1)
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
