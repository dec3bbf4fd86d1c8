"""The decoder's network: LSTM memories of what each key may mean, and of what situations explain without any key."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from treadle.cells import LSTMCell, LSTMState

__all__ = ["EvidenceCell", "EvidenceState"]


class EvidenceState(NamedTuple):
    """What is known of a user."""

    keys_h: Tensor
    """Of the memories of keys: [B, K, A, H]."""
    keys_c: Tensor
    situations_h: Tensor
    """Of the memories of situations: [B, S, A, H]."""
    situations_c: Tensor
    lately_h: Tensor
    """Of the memory of how well it has gone lately: [B, H]."""
    lately_c: Tensor
    lately_then: Tensor
    """The same as each key found it when it was last pressed [B, K, H]; zeros before."""
    wishes: Tensor
    """How often each key was pressed in which situation for which command, as far as that is known [B, K, S, A]."""
    fits: Tensor
    """How well each command fits the situations in which each key was pressed lately [B, K, A]."""
    beliefs: Tensor
    """For each key how probable each meaning was when it was last pressed [B, K, A]; zeros before."""
    key: Tensor
    """The last key [B, K] and situation [B, S], a 1 in its place; zeros before the first press."""
    situation: Tensor
    meanings: Tensor
    """How probable each meaning of the last key was [B, A]."""
    unasked: Tensor
    """How probable a good outcome of each action was in the last situation, had it not been meant [B, A]."""
    others: Tensor
    """The logarithm of how probable it was that no other key means each action [B, A]."""
    fit: Tensor
    """How well each command fitted the last situation, by habit [B, A]."""
    since: Tensor
    """How things have changed lately since the last key had been pressed before [B, H]."""


class EvidenceCell(nn.Module):
    """From presses and their outcomes to what a key means: the evidence that the key explains them, not the situation.

    There is an LSTM memory for every pair of a key and a command it may mean, all with the same weights, and one for
    every pair of a situation and a command. A step first learns from the outcome of the last press, then says what the
    present one may mean::

        memory[k, a]    = LSTM([a was done?, good?, fit(a), …], memory[k, a])   of the last key k, for all a
        wishes[k, s, a] = … + P(a was wanted | outcome)                         of the last key and situation
        fit(a)          = log P(s | a) − log P(s)                               by wishes of all other keys
        meaning(a)      = softmax(score(memory[key, a], fit(a), whether other keys mean a, lately))
        unasked(a)      = sigmoid(head(memory[situation, a]))                   sees no key
        P(good | do a)  = meaning(a) · wanted + (1 − meaning(a)) · unasked(a)

    Trained on outcomes alone, the last line leaves to the key only what the situation does not explain: a command
    that is good here whatever is pressed makes ``unasked`` high and says nothing of ``meaning``.

    What is wanted where is the user's habit, and outlives the meanings of the keys: after these change, each press of a
    key in a situation says something of every command, whatever is done then. By habit a command is compared with
    itself in other situations, and a key never with what it was taken for itself: it would prove itself right.

    As all memories of keys may be outdated at once, each key knows what has changed lately since it was pressed.

    As the weights are shared, the number of keys and situations is that of rows in the state, and any may be had.

    Args:
        keys: rows for keys (or for whatever was pressed, such as two keys one after the other).
        situations: rows for situations.
        actions: commands, and to wait, which is the last.
        hidden_size: of each memory.

    The input [B, K + S + A + 2] is: the key and the situation, a 1 in its place; the action that was taken after the
    last press, likewise; its outcome, 1 for good, -1 for bad, 0 for none; 1 if the key is the second of two. The
    output [B, 2 A] is log meaning(a) and log-odds of P(good | do a).

    Example:
        >>> import torch, treadle as td
        >>> from treadle.recipes.decode import EvidenceCell
        >>> cell = EvidenceCell(keys=6, situations=4, actions=3, hidden_size=5)
        >>> ys, state = td.Recurrent(cell, engine="reference")(torch.zeros(2, 7, 6 + 4 + 3 + 2))
        >>> ys.shape
        torch.Size([2, 7, 6])
    """

    def __init__(self, keys: int, situations: int, actions: int, hidden_size: int = 16):
        super().__init__()
        self.keys, self.situations, self.actions, self.hidden_size = keys, situations, actions, hidden_size
        self.input_size, self.output_size = keys + situations + actions + 2, 2 * actions
        self.key_memory = LSTMCell(10 + 2 * hidden_size, hidden_size, forget_bias=2.0)
        self.situation_memory = LSTMCell(4, hidden_size, forget_bias=2.0)
        self.lately = LSTMCell(4, hidden_size, forget_bias=1.0)
        self.score = nn.Sequential(
            nn.Linear(3 * hidden_size + 7, 2 * hidden_size), nn.Tanh(), nn.Linear(2 * hidden_size, 1)
        )
        self.unasked = nn.Linear(hidden_size, 1)
        self.wanted = nn.Parameter(torch.tensor([2.0]))
        self.doubt = nn.Parameter(torch.tensor([0.0]))  # the logarithm of presses to add where habits are counted
        self.fading = nn.Parameter(torch.tensor([2.0]))  # of fits, log-odds
        self.outdated = nn.Linear(hidden_size, 1)
        nn.init.constant_(self.outdated.bias, 3.0)
        self.register_buffer("waits", (torch.arange(actions) == actions - 1).to(self.wanted.dtype), persistent=False)
        nn.init.constant_(self.unasked.bias, -2.0)

    def initial_state(self, batch_size: int) -> EvidenceState:
        """Nothing is known."""
        K, S, A, H = self.keys, self.situations, self.actions, self.hidden_size

        def zeros(*sizes: int) -> Tensor:
            return self.wanted.new_zeros(batch_size, *sizes)

        memories = (zeros(K, A, H), zeros(K, A, H), zeros(S, A, H), zeros(S, A, H), zeros(H), zeros(H), zeros(K, H))
        found, last = (zeros(K, S, A), zeros(K, A), zeros(K, A)), (zeros(A), zeros(A), zeros(A), zeros(A))
        return EvidenceState(*memories, *found, zeros(K), zeros(S), *last, zeros(H))

    def encode(
        self,
        rows: Sequence[int],
        situations: Sequence[int],
        seconds: Sequence[bool],
        actions: Sequence[int | None],
        goods: Sequence[bool | None],
    ) -> Tensor:
        """The input [B, I] for presses.

        Args:
            rows: for each press, where the memory of its key is.
            situations: the situation.
            seconds: whether the key is the second of two.
            actions: what was done after the press before; None before the first one.
            goods: what came of it; None where nobody said.
        """
        K, S, A = self.keys, self.situations, self.actions
        x = self.wanted.new_zeros(len(rows), self.input_size)
        for i, (row, situation, action, good) in enumerate(zip(rows, situations, actions, goods, strict=True)):
            x[i, row] = x[i, K + situation] = 1
            if action is not None and good is not None:
                x[i, K + S + action] = 1
                x[i, K + S + A] = 1 if good else -1
        x[:, -1] = torch.tensor(seconds, dtype=x.dtype)
        return x

    def forward(self, x: Tensor, state: EvidenceState) -> tuple[Tensor, EvidenceState]:
        """One press."""
        key, situation, action, rest = x.split([self.keys, self.situations, self.actions, 2], 1)
        outcome, second = rest.split(1, 1)
        state = self._learned(action, outcome, state)
        A = self.actions
        memory = _of(key, state.keys_h)
        now = state.lately_h
        elsewhere, here = (1 - key)[:, :, None], key[:, :, None]
        valid = torch.sigmoid(self.outdated(now[:, None] - state.lately_then))  # [B, K, 1]
        meant = (state.beliefs * valid * elsewhere).clamp(0, 1)
        others = torch.log1p(-0.98 * meant).sum(1)  # the logarithm of "no other key means a"
        waits = self.get_buffer("waits").expand_as(others)
        fit = self._fit(key, situation, state.wishes)
        fits = state.fits * (elsewhere + here * torch.sigmoid(self.fading)) + here * fit[:, None]
        since = now - _of(key, state.lately_then)
        features = [fit, _of(key, fits), others, waits, second.expand(-1, A), second * waits, _of(key, state.beliefs)]
        score = self.score(
            torch.cat([memory, torch.cat([now, since], 1)[:, None].expand(-1, A, -1), torch.stack(features, 2)], 2)
        ).squeeze(2)
        meaning = torch.log_softmax(score + others, 1)
        p = meaning.exp()
        unasked = torch.sigmoid(self.unasked(_of(situation, state.situations_h)).squeeze(2))
        good = (p * torch.sigmoid(self.wanted) + (1 - p) * unasked).clamp(1e-4, 1 - 1e-4)
        beliefs = state.beliefs * elsewhere + here * p[:, None]
        then = state.lately_then * elsewhere + here * now[:, None]
        state = state._replace(lately_then=then, fits=fits, beliefs=beliefs, key=key, situation=situation)
        state = state._replace(meanings=p, unasked=unasked, others=others, fit=fit, since=since)
        return torch.cat([meaning, torch.logit(good)], 1), state

    def _fit(self, key: Tensor, situation: Tensor, wishes: Tensor) -> Tensor:
        """How much more probable a situation is if each command is wanted, by what other keys were pressed for."""
        of_others = torch.einsum("bk,bksa->bsa", 1 - key, wishes) + self.doubt.exp()
        here, anywhere = (count.clamp_min(1e-3) for count in (_of(situation, of_others), of_others.mean(1)))
        return torch.log(here / anywhere) * (1 - self.get_buffer("waits"))

    def _learned(self, action: Tensor, outcome: Tensor, state: EvidenceState) -> EvidenceState:
        """The memories after what came of the last press."""
        A, p, unasked = self.actions, state.meanings, state.unasked
        happened = outcome.abs()
        believed, luck = (p * action).sum(1, keepdim=True), (unasked * action).sum(1, keepdim=True)
        expected = believed * torch.sigmoid(self.wanted) + (1 - believed) * luck
        fitted = happened * torch.log((p * state.fit.exp()).sum(1, keepdim=True).clamp_min(1e-3))
        x = torch.cat([outcome, believed, outcome * expected, fitted], 1)
        h, c = _step(self.lately, x, (state.lately_h, state.lately_c))
        lately = [_mix(happened, new, old) for new, old in ((h, state.lately_h), (c, state.lately_c))]
        others, waits = state.others, self.get_buffer("waits").expand_as(p)
        seen = [action, action * outcome, outcome.expand(-1, A), p, believed.expand(-1, A), luck.expand(-1, A)]
        seen += [others, waits, action * luck * outcome, state.fit]
        x = torch.cat([state.lately_h, state.since], 1)[:, None].expand(-1, A, -1)
        x = torch.cat([torch.stack(seen, 2), x], 2)
        keys = _written(self.key_memory, x, state.key * happened, (state.keys_h, state.keys_c))
        x = torch.stack([action, action * outcome, action * believed, action * outcome * believed], 2)
        at = state.situation * happened
        situations = _written(self.situation_memory, x, at, (state.situations_h, state.situations_c))
        good = 0.5 + outcome * (action * torch.sigmoid(self.wanted) + (1 - action) * luck - 0.5)
        good = good.clamp(1e-3, 1)
        wanted = p * good / (p * good).sum(1, keepdim=True).clamp_min(1e-6)  # by Bayes' rule
        place = (state.key * happened)[:, :, None] * state.situation[:, None]
        wishes = state.wishes + place[:, :, :, None] * wanted[:, None, None]
        state = state._replace(keys_h=keys[0], keys_c=keys[1], situations_h=situations[0], situations_c=situations[1])
        return state._replace(lately_h=lately[0], lately_c=lately[1], wishes=wishes)


def _of(place: Tensor, table: Tensor) -> Tensor:
    """The row [B, …] of a table [B, N, …] at a place [B, N]."""
    return torch.einsum("bn,bnk->bk", place, table.flatten(2)).unflatten(1, table.shape[2:])


def _mix(share: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return old + share * (new - old)


def _step(cell: LSTMCell, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    _, (h, c) = cell(x, LSTMState(*state))
    return h, c


def _written(cell: LSTMCell, x: Tensor, place: Tensor, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Tables [B, N, A, H] after a step of the row at a place [B, N]; where there is none, as they were."""
    rows = [_of(place, table) for table in tables]
    new = _step(cell, x.flatten(0, 1), (rows[0].flatten(0, 1), rows[1].flatten(0, 1)))
    where = place[:, :, None, None]
    h, c = (
        table + where * (after.unflatten(0, x.shape[:2]) - row)[:, None]
        for table, row, after in zip(tables, rows, new, strict=True)
    )
    return h, c
