"""The decoder's network: the evidence of what each key may mean, LSTM memories beside it, and what situations explain."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from treadle.cells import LSTMCell, LSTMState

__all__ = ["EvidenceCell", "EvidenceState"]

FITTINGS = 3
"""How often what keys mean is made to fit, keys by commands."""


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
    evidence: Tensor
    """What outcomes say of each meaning of each key, in logarithms: since the last change, and of late [B, 2, K, A]."""
    presses: Tensor
    """How often each key was pressed in each situation, likewise [B, 2, K, S]."""
    believed: Tensor
    """How probable each meaning of each key is [B, K, A]; zeros for keys that were never pressed."""
    wishes: Tensor
    """How often each command was wanted in each situation before the last change, as it was understood then [B, S, A]."""
    changed: Tensor
    """The statistic of Shiryaev and Roberts for "all keys have changed", its logarithm [B, 1]."""
    valid: Tensor
    """How much of what each key's memory holds is from after the last change [B, K]."""
    fits: Tensor
    """What habits said of each meaning when each key was pressed last [B, K, A]."""
    kinds: Tensor
    """1 for keys that were pressed as the first, and as the second of two [B, 2, K]."""
    key: Tensor
    """The last key [B, K] and situation [B, S], a 1 in its place; zeros before the first press."""
    situation: Tensor
    meanings: Tensor
    """How probable each meaning of the last press was [B, A]."""
    unasked: Tensor
    """How probable a good outcome of each action was in the last situation, had it not been meant [B, A]."""
    usual: Tensor
    """How probable each meaning would have been, had nothing been known of the key [B, A]."""
    others: Tensor
    """How many other keys were believed to mean each action [B, A]."""
    lift: Tensor
    """How much more each command was wanted in the last situation than anywhere, by habit, in logarithms [B, A]."""
    surprise: Tensor
    """How much less the last press was to be expected than if nothing were known of keys, in logarithms [B, 1]."""


class EvidenceCell(nn.Module):
    """From presses and their outcomes to what a key means: the evidence that the key explains them, not the situation.
    """

    def __init__(self, keys: int, situations: int, actions: int, hidden_size: int = 12):
        super().__init__()
        self.keys, self.situations, self.actions, self.hidden_size = keys, situations, actions, hidden_size
        self.input_size, self.output_size = keys + situations + actions + 2, 2 * actions
        H = hidden_size
        self.key_memory = LSTMCell(12 + H, H, forget_bias=2.0)
        self.situation_memory = LSTMCell(5, H, forget_bias=2.0)
        self.lately = LSTMCell(6, H, forget_bias=1.0)
        self.remembered = nn.Linear(H, 1, bias=False)
        self.score = nn.Sequential(nn.Linear(2 * H + 11, 2 * H), nn.Tanh(), nn.Linear(2 * H, 1))
        self.unasked = nn.Linear(H, 1)
        self.trust = nn.Linear(H + 1, 4)
        self.change = nn.Linear(H, 1)
        self.shared = nn.Linear(2, 1, bias=False)

        def number(value: float) -> nn.Parameter:
            return nn.Parameter(torch.tensor([value]))

        self.wanted = number(2.5)  # log-odds that what was wanted turns out good
        self.mistakes = number(-2.7)  # log-odds of another key being hit
        self.doubt = number(1.0)  # the logarithm of presses to add where habits are counted
        self.weight = number(1.0)  # of evidence
        self.present = number(0.0)  # log-odds; how far wishes since the change count among habits
        self.alone = number(4.0)  # log-odds that two keys differ in what they mean
        self.recent = number(2.7)  # log-odds of what happened of late being kept, at each press
        self.threshold, self.steepness = number(7.0), number(1.0)
        self.waiting = nn.Parameter(torch.tensor([-0.7, -3.7]))  # for keys, and for second keys of two
        with torch.no_grad():
            self.unasked.bias.fill_(-2.0)
            for layer in (self.score[2], self.trust, self.change, self.remembered):
                layer.weight.mul_(0.2)
            self.score[2].bias.zero_()
            self.trust.bias.copy_(torch.tensor([-1.0, 0.0, -3.0, -1.0]))
            self.trust.weight[:, -1] = 0.5
            self.change.bias.zero_()
            self.shared.weight.copy_(torch.tensor([[-1.0, -0.3]]))
        self.register_buffer("waits", (torch.arange(actions) == actions - 1).to(self.wanted.dtype), persistent=False)

    def initial_state(self, batch_size: int) -> EvidenceState:
        """Nothing is known."""
        K, S, A, H = self.keys, self.situations, self.actions, self.hidden_size

        def zeros(*sizes: int) -> Tensor:
            return self.wanted.new_zeros(batch_size, *sizes)

        memories = zeros(K, A, H), zeros(K, A, H), zeros(S, A, H), zeros(S, A, H), zeros(H), zeros(H)
        found = zeros(2, K, A), zeros(2, K, S), zeros(K, A), zeros(S, A), zeros(1), zeros(K), zeros(K, A)
        last = zeros(2, K), zeros(K), zeros(S), zeros(A), zeros(A), zeros(A), zeros(A), zeros(A), zeros(1)
        return EvidenceState(*memories, *found, *last)

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
        A, waits, here = self.actions, self.get_buffer("waits"), key[:, :, None]
        kind = torch.cat([1 - second, second], 1)
        kinds = torch.maximum(state.kinds, kind[:, :, None] * key[:, None])
        lately = state.lately_h
        before = torch.log1p(state.wishes.sum((1, 2)))[:, None] / 5
        trust = softplus(self.trust(torch.cat([lately, before], 1)))

        # Habits: how often each command is wanted here and anywhere, leaving out what this key is taken for now.
        present = torch.einsum("bks,bka->bsa", state.presses[:, 0] * (1 - here), state.believed)
        wishes = (state.wishes + torch.sigmoid(self.present) * present) * (1 - waits)
        anywhere = wishes.sum(1)
        usual = (anywhere + 1) / (anywhere + 1).sum(1, keepdim=True)
        doubt = self.doubt.exp()
        by_situation = (wishes + doubt * usual[:, None]) / (wishes.sum(2, keepdim=True) + doubt)
        usual = torch.where(waits > 0, 0.1, usual)  # to wait is no wish
        mistakes = torch.sigmoid(self.mistakes)
        by_situation = torch.where(waits > 0, 0.1, by_situation)
        lifts = torch.log(((1 - mistakes) * by_situation + mistakes / A) / ((1 - mistakes) * usual + mistakes / A)[:, None])
        rate = torch.log(usual * 10)
        pressed = _of(key, state.presses[:, 0])
        lift = _of(situation, lifts)
        fitted = torch.einsum("bs,bsa->ba", pressed, lifts)
        total = pressed.sum(1, keepdim=True)
        habit = trust[:, :1] * fitted + trust[:, 2:3] * total * rate
        fits = state.fits + here * (habit[:, None] - state.fits)

        # What keys mean, by all that is known, made to fit: most commands have one key.
        known = kinds.amax(1)[:, :, None]
        evidence = state.evidence[:, 0]
        remembered = self.remembered(state.keys_h).squeeze(3) * state.valid[:, :, None]
        wait = (kinds * self.waiting[:, None]).sum(1)[:, :, None] * waits
        scores = self.weight * evidence + fits + remembered + wait + trust[:, 3:, None] * rate[:, None]
        crowded = (kinds.sum(2) - kinds.new_tensor([9.0, 2.0])) / 4  # many keys have to share commands
        alone = torch.sigmoid(self.alone + self.shared(crowded))[:, :, None] * (1 - waits)
        believed, fitting = state.believed, torch.zeros_like(state.believed)
        for _ in range(FITTINGS):
            taken = torch.log1p(-alone * believed)
            fitting = (fitting + taken.sum(1, keepdim=True) - taken) / 2
            means = torch.log_softmax(scores + fitting, 2)
            believed = means.exp() * known
        mine, others = _of(key, means), _of(key, fitting) / 4
        now = lift + rate
        press = torch.einsum("bka,ba->bk", believed, (1 - mistakes) * _of(situation, by_situation) + mistakes / A)
        press = press * kinds[:, 0] + 1e-6
        expected = torch.log((press * key).sum(1, keepdim=True) / press.sum(1, keepdim=True))
        surprise = -(expected + torch.log(kinds[:, 0].sum(1, keepdim=True).clamp_min(1))) * (1 - second)

        own_evidence = _of(key, state.evidence.transpose(1, 2))  # [B, 2, A]
        own_evidence = torch.tanh((own_evidence - own_evidence.amax(2, keepdim=True)) / 5)
        valid = (key * state.valid).sum(1)[:, None, None]
        features = [mine.clamp_min(-12) / 4, lift, torch.tanh(fitted / 5), own_evidence[:, 0], own_evidence[:, 1]]
        features += [others, waits.expand_as(lift), second.expand(-1, A), second * waits]
        features += [torch.log1p(total).expand(-1, A) / 3, torch.tanh(state.changed / 5).expand(-1, A)]
        memory = _of(key, state.keys_h) * valid
        score = self.score(torch.cat([memory, lately[:, None].expand(-1, A, -1), torch.stack(features, 2)], 2)).squeeze(2)
        meaning = torch.log_softmax(score + mine + trust[:, 1:2] * now, 1)
        p = meaning.exp()
        unasked = torch.sigmoid(self.unasked(_of(situation, state.situations_h)).squeeze(2))
        good = (p * torch.sigmoid(self.wanted) + (1 - p) * unasked).clamp(1e-4, 1 - 1e-4)
        usually = torch.softmax(torch.log(_of(situation, by_situation)) + second * self.waiting[1] * waits, 1)
        state = state._replace(fits=fits, kinds=kinds, key=key, situation=situation, meanings=p, unasked=unasked)
        state = state._replace(believed=believed, usual=usually, others=others, lift=lift, surprise=surprise)
        return torch.cat([meaning, torch.logit(good)], 1), state

    def _learned(self, action: Tensor, outcome: Tensor, state: EvidenceState) -> EvidenceState:
        """The memories after what came of the last press."""
        A, p, unasked, waits = self.actions, state.meanings, state.unasked, self.get_buffer("waits")
        happened = outcome.abs()
        at, where = state.key * happened, state.situation * happened
        believed, luck = (p * action).sum(1, keepdim=True), (unasked * action).sum(1, keepdim=True)
        good = 0.5 + outcome * (action * torch.sigmoid(self.wanted) + (1 - action) * luck - 0.5)
        good = good.clamp(1e-3, 1)  # how probable what happened was, for each that may have been wanted
        mistakes = torch.sigmoid(self.mistakes)
        seen = torch.log((1 - mistakes) * good + mistakes * good[:, :-1].mean(1, keepdim=True))
        explained = (p * good).sum(1, keepdim=True).clamp_min(1e-4)
        wanted = p * good / explained  # by Bayes' rule
        anew = (state.usual * good).sum(1, keepdim=True).clamp_min(1e-4)
        surprise = state.surprise.clamp(-3, 3)
        ratio = happened * (torch.log(anew / explained) + surprise)
        changed = _mix(happened, (softplus(state.changed) + ratio).clamp_max(15), state.changed)

        x = torch.cat([outcome, believed, outcome * (explained * 2 - 1), ratio, surprise, torch.tanh(changed / 5)], 1)
        h, c = _step(self.lately, x, (state.lately_h, state.lately_c))
        lately_h, lately_c = _mix(happened, h, state.lately_h), _mix(happened, c, state.lately_c)

        change = self.steepness * (changed - self.threshold) + self.change(lately_h)
        kept, renewed = happened * torch.sigmoid(-change) + 1 - happened, happened * torch.sigmoid(change)
        changed = changed + happened * logsigmoid(-change)

        recent = _mix(happened, torch.sigmoid(self.recent), 1.0)[:, :, None]
        evidence, presses = state.evidence, state.presses
        old = torch.tanh(_of(at, evidence[:, 0]) / 5)
        late_evidence = evidence[:, 1] * recent + at[:, :, None] * seen[:, None]
        late_presses = presses[:, 1] * recent + at[:, :, None] * where[:, None]
        since_evidence = evidence[:, 0] + at[:, :, None] * seen[:, None]
        since_presses = presses[:, 0] + at[:, :, None] * where[:, None]
        renew = renewed[:, :, None]
        since_evidence = _mix(renew, late_evidence, since_evidence)
        since_presses = _mix(renew, late_presses, since_presses)

        # After a change, what was pressed before it was wanted as it is understood now.
        gone = (presses[:, 0] - presses[:, 1]).clamp_min(0) * renew
        wishes = state.wishes + torch.einsum("bks,bka->bsa", gone, state.believed)
        valid = state.valid * kept
        vs = (at * valid).sum(1)[:, None, None]
        seens = [action, action * outcome, outcome.expand(-1, A), p, believed.expand(-1, A), luck.expand(-1, A)]
        seens += [state.others, waits.expand_as(p), action * luck * outcome, state.lift, seen, old]
        x = torch.cat([torch.stack(seens, 2), lately_h[:, None].expand(-1, A, -1)], 2)
        keys = _written(self.key_memory, x, at, (state.keys_h, state.keys_c), vs)
        valid = valid + at * (1 - valid)
        x = torch.stack([action, action * outcome, action * believed, action * outcome * believed, action * wanted], 2)
        situations = _written(self.situation_memory, x, where, (state.situations_h, state.situations_c))
        state = state._replace(keys_h=keys[0], keys_c=keys[1], situations_h=situations[0], situations_c=situations[1])
        state = state._replace(lately_h=lately_h, lately_c=lately_c, changed=changed, valid=valid)
        return state._replace(
            evidence=torch.stack([since_evidence, late_evidence], 1),
            presses=torch.stack([since_presses, late_presses], 1),
            wishes=wishes,
            fits=state.fits * kept[:, :, None],
        )


def _of(place: Tensor, table: Tensor) -> Tensor:
    """The row [B, …] of a table [B, N, …] at a place [B, N]; zeros where there is none."""
    size = (-1, *[1] * (table.dim() - 2))
    return table[torch.arange(len(place)), place.argmax(1)] * place.amax(1).view(size)


def _mix(share: Tensor, new: Tensor, old: Tensor | float) -> Tensor:
    return old + share * (new - old)


def _step(cell: LSTMCell, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    _, (h, c) = cell(x, LSTMState(*state))
    return h, c


def _written(
    cell: LSTMCell, x: Tensor, place: Tensor, tables: tuple[Tensor, Tensor], valid: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Tables [B, N, A, H] after a step of the row at a place [B, N]; where there is none, as they were."""
    rows = [_of(place, table) for table in tables]
    new = _step(cell, x.flatten(0, 1), tuple((row * valid).flatten(0, 1) for row in rows))
    where = place[:, :, None, None]
    h, c = (
        torch.addcmul(table, where, (after.unflatten(0, x.shape[:2]) - row)[:, None])
        for table, row, after in zip(tables, rows, new, strict=True)
    )
    return h, c
