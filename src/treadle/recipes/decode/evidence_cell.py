"""The decoder's network: evidence and LSTM memories of what each key may mean, and of what situations explain."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from treadle.cells import LSTMCell, LSTMState
from treadle.state import kept_in_files

FITTINGS = 3
"""How often what keys mean is made to fit, keys by commands."""


@kept_in_files
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
    """What outcomes say of each meaning of each key, in logarithms: since a change, and of late [B, 2, K, A]."""
    presses: Tensor
    """How often each key was pressed in each situation, likewise [B, 2, K, S]."""
    believed: Tensor
    """How probable each meaning of each key is [B, K, A]; zeros for keys that were never pressed."""
    wishes: Tensor
    """How often each command was wanted in each situation before a change, as it was understood then [B, S, A]."""
    changed: Tensor
    """How much speaks for it that all keys have changed, in logarithms [B, 1]."""
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
    unknown: Tensor
    """How probable each meaning would have been, had nothing been known of the key [B, A]."""
    others: Tensor
    """How far each meaning was left to the last key by others, in logarithms [B, A]."""
    lift: Tensor
    """How much more each command was wanted in the last situation than anywhere, by habit, in logarithms [B, A]."""
    surprise: Tensor
    """How much less the last press was to be expected than if nothing were known of keys, in logarithms [B, 1]."""


class EvidenceCell(nn.Module):
    """From presses and their outcomes to what a key means: the evidence that the key explains them, not the situation.

    A step first learns from the outcome of the last press, then says what the present one may mean. For every pair of a
    key k and a command a there is a sum of evidence, and an LSTM memory for what sums miss; for every pair of a
    situation s and a command there is another, of what turns out good without being wanted::

        evidence[k, a] += log P(outcome | a was wanted)                 of the last key, for all a
        memory[k, a]    = LSTM([a was done?, good?, …], memory[k, a])   likewise
        lift(s, a)      = log P(a wanted in s) − log P(a wanted)        by presses of other keys, as they are understood
        fit[k, a]       = Σ_s presses[k, s] · lift(s, a)
        means[k]        = softmax(evidence[k] + fit[k] + memory[k] + Σ_j log(1 − alone · means[j]))   over other keys j
        meaning(a)      = softmax(log means[key, a] + lift(s, a) + score(memory[key, a], …))
        unasked(a)      = sigmoid(head(memory[s, a]))                   sees no key
        P(good | do a)  = meaning(a) · wanted + (1 − meaning(a)) · unasked(a)

    Learning from outcomes, the last line leaves to the key only what the situation does not explain: a command that is
    good here whatever is pressed makes ``unasked`` high and says nothing of ``meaning``. The evidence is of the same
    kind: an outcome that was to be expected anyway adds the same to every meaning.

    All keys may change at once. How much better what happened is foreseen by somebody who knows no key adds up as well
    (the statistic of Shiryaev and Roberts); with it, and with an LSTM memory of how it has gone lately, grows the share
    of everything about keys that is given up in favour of what was seen of late::

        changed     = log(1 + exp(changed)) + log P(what happened | no key is known) − log P(what happened | means)
        given up    = sigmoid(steepness · (changed − threshold) + head(lately))
        evidence    = evidence + given up · (evidence of late − evidence)

    What is wanted where is the user's habit, and outlives the meanings of the keys: after a change, each press of a key
    in a situation says something of every command, whatever is done then. A key's own decoded meanings since the last
    change do not count for it: it would confirm itself. How far habits are trusted depends on lately.

    Rows for keys and situations share their weights, so any number of them may be had.

    Args:
        keys: rows for keys (or for whatever was pressed, such as two keys one after the other).
        situations: rows for situations.
        actions: commands, and to wait, which is the last.
        hidden_size: of each memory.

    The input [B, K + S + A + 3] is: the key and the situation, a 1 in its place; the action that was taken after the
    last press, likewise; its outcome, 1 for good, -1 for bad, 0 for none; 1 if the key is the second of two; 1 if
    nothing is known of the key, and what its row holds is of another. The output [B, 2 A] is log meaning(a) and
    log-odds of P(good | do a).

    Sources: all keys' meanings at once are a mean field (Jordan et al., *An Introduction to Variational Methods for
    Graphical Models*, 1999); the sum that tells a change is by Shiryaev, *On Optimum Methods in Quickest Detection
    Problems*, 1963, and Roberts, *A Comparison of Some Control Chart Procedures*, 1966.

    Example:
        >>> import torch, treadle as td
        >>> from treadle.recipes.decode import EvidenceCell
        >>> cell = EvidenceCell(keys=6, situations=4, actions=3, hidden_size=5)
        >>> ys, state = td.Recurrent(cell, engine="reference")(torch.zeros(2, 7, 6 + 4 + 3 + 3))
        >>> ys.shape
        torch.Size([2, 7, 6])
    """

    def __init__(self, keys: int, situations: int, actions: int, hidden_size: int = 12):
        super().__init__()
        self.keys, self.situations, self.actions, self.hidden_size = keys, situations, actions, hidden_size
        self.input_size, self.output_size = keys + situations + actions + 3, 2 * actions
        H = hidden_size
        self.key_memory = LSTMCell(12 + H, H, forget_bias=2.0)
        self.situation_memory = LSTMCell(5, H, forget_bias=2.0)
        self.lately = LSTMCell(6, H, forget_bias=1.0)
        self.remembered = nn.Linear(H, 1, bias=False)
        first, last = nn.Linear(2 * H + 11, 2 * H), nn.Linear(2 * H, 1)
        self.score = nn.Sequential(first, nn.Tanh(), last)
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
            for layer in (last, self.trust, self.change, self.remembered):
                layer.weight.mul_(0.2)
            last.bias.zero_()
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
        new: Sequence[bool],
        actions: Sequence[int | None],
        goods: Sequence[bool | None],
    ) -> Tensor:
        """The input [B, I] for presses.

        Args:
            rows: for each press, where the memory of its key is.
            situations: the situation.
            seconds: whether the key is the second of two.
            new: whether nothing is known of the key.
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
        x[:, -2:] = torch.tensor([seconds, new], dtype=x.dtype).T
        return x

    def forward(self, x: Tensor, state: EvidenceState) -> tuple[Tensor, EvidenceState]:
        """One press."""
        parts = x.clamp(-1, 1).split([self.keys, self.situations, self.actions, 1, 1, 1], 1)
        outcome = parts[3]
        key, situation, action, _, second, new = (part.clamp_min(0) for part in parts)
        state = _given_up(key * new, self._learned(action, outcome, state))
        A, waits = self.actions, self.get_buffer("waits")
        kinds = _either(state.kinds, torch.cat([1 - second, second], 1)[:, :, None] * key[:, None])
        lately, pressed = state.lately_h, _of(key, state.presses[:, 0])
        total = pressed.sum(1, keepdim=True)
        before = torch.log1p(state.wishes.sum((1, 2)))[:, None] / 5
        trust = softplus(self.trust(torch.cat([lately, before], 1)))

        by_situation, usual = self._habits(key, state)
        frequent = torch.log(usual * (A - 1))
        lifts = torch.log(self._pressed(by_situation) / self._pressed(usual)[:, None])
        lift, fitted = _of(situation, lifts), torch.einsum("bs,bsa->ba", pressed, lifts)
        fit = trust[:, :1] * fitted + trust[:, 2:3] * total * frequent
        fits = state.fits + key[:, :, None] * (fit[:, None] - state.fits)

        means, fitting = self._means(kinds, fits, trust[:, 3:] * frequent, state)
        believed = means.exp() * _either(*kinds.unbind(1))[:, :, None]
        mine, others = _of(key, means), _of(key, fitting) / 4
        wanted_here = _of(situation, by_situation)
        press = torch.einsum("bka,ba->bk", believed, self._pressed(wanted_here)) * kinds[:, 0] + 1e-6
        foreseen = (press * key).sum(1, keepdim=True) / press.sum(1, keepdim=True)
        surprise = -torch.log(foreseen.clamp_min(1e-6) * kinds[:, 0].sum(1, keepdim=True).clamp_min(1)) * (1 - second)

        evidence = _of(key, state.evidence.transpose(1, 2))  # [B, 2, A]
        evidence = torch.tanh((evidence - evidence.amax(2, keepdim=True)) / 5)
        features = [mine.clamp_min(-12) / 4, lift, torch.tanh(fitted / 5), evidence[:, 0], evidence[:, 1]]
        features += [others, waits.expand_as(lift), second.expand(-1, A), second * waits]
        features += [torch.log1p(total).expand(-1, A) / 3, torch.tanh(state.changed / 5).expand(-1, A)]
        memory = _of(key, state.keys_h) * (key * state.valid).sum(1)[:, None, None]
        x = torch.cat([memory, lately[:, None].expand(-1, A, -1), torch.stack(features, 2)], 2)
        meaning = torch.log_softmax(self.score(x).squeeze(2) + mine + trust[:, 1:2] * (lift + frequent), 1)
        p = meaning.exp()
        unasked = torch.sigmoid(self.unasked(_of(situation, state.situations_h)).squeeze(2))
        good = (p * torch.sigmoid(self.wanted) + (1 - p) * unasked).clamp(1e-4, 1 - 1e-4)
        unknown = torch.softmax(torch.log(wanted_here.clamp_min(1e-6)) + second * self.waiting[1] * waits, 1)
        state = state._replace(fits=fits, kinds=kinds, believed=believed, key=key, situation=situation, meanings=p)
        state = state._replace(unasked=unasked, unknown=unknown, others=others, lift=lift, surprise=surprise)
        return torch.cat([meaning, torch.logit(good)], 1), state

    def _habits(self, key: Tensor, state: EvidenceState) -> tuple[Tensor, Tensor]:
        """How often each command is wanted, by situation [B, S, A] and anywhere [B, A], but for what this key meant."""
        waits, doubt, even = self.get_buffer("waits"), self.doubt.exp(), 1 / (self.actions - 1)
        present = torch.einsum("bks,bka->bsa", state.presses[:, 0] * (1 - key)[:, :, None], state.believed)
        wishes = (state.wishes + torch.sigmoid(self.present) * present) * (1 - waits)
        usual = wishes.sum(1) + 1
        usual = usual / usual.sum(1, keepdim=True)
        by_situation = (wishes + doubt * usual[:, None]) / (wishes.sum(2, keepdim=True) + doubt)
        return torch.where(waits > 0, even, by_situation), torch.where(waits > 0, even, usual)  # to wait is no wish

    def _pressed(self, wanted: Tensor) -> Tensor:
        """How often a key is pressed, if what it means is wanted so often: now and then by mistake."""
        mistakes = torch.sigmoid(self.mistakes)
        return (1 - mistakes) * wanted + mistakes / self.actions

    def _means(self, kinds: Tensor, fits: Tensor, prior: Tensor, state: EvidenceState) -> tuple[Tensor, Tensor]:
        """What all keys mean, in logarithms [B, K, A], and how far each meaning is left to each key by the others."""
        waits = self.get_buffer("waits")
        remembered = self.remembered(state.keys_h).squeeze(3) * state.valid[:, :, None]
        scores = self.weight * state.evidence[:, 0] + fits + remembered + prior[:, None]
        scores = scores + (kinds * self.waiting[:, None]).sum(1)[:, :, None] * waits
        crowded = (kinds.sum(2) - kinds.new_tensor([9.0, 2.0])) / 4  # many keys have to share commands
        alone = torch.sigmoid(self.alone + self.shared(crowded))[:, :, None] * (1 - waits)
        believed, fitting, means = state.believed, torch.zeros_like(scores), scores
        for _ in range(FITTINGS):
            taken = torch.log1p(-alone * believed)
            fitting = (fitting + taken.sum(1, keepdim=True) - taken) / 2
            means = torch.log_softmax(scores + fitting, 2)
            believed = means.exp() * _either(*kinds.unbind(1))[:, :, None]
        return means, fitting

    def _learned(self, action: Tensor, outcome: Tensor, state: EvidenceState) -> EvidenceState:
        """The memories after what came of the last press."""
        A, p, waits = self.actions, state.meanings, self.get_buffer("waits")
        happened = outcome.abs()
        key, situation = state.key * happened, state.situation * happened
        believed, luck = (p * action).sum(1, keepdim=True), (state.unasked * action).sum(1, keepdim=True)
        good = 0.5 + outcome * (action * torch.sigmoid(self.wanted) + (1 - action) * luck - 0.5)
        good = good.clamp(1e-3, 1)  # how probable what happened was, for each that may have been wanted
        mistakes = torch.sigmoid(self.mistakes)
        seen = torch.log((1 - mistakes) * good + mistakes * good[:, :-1].mean(1, keepdim=True))
        explained = (p * good).sum(1, keepdim=True).clamp_min(1e-4)
        unexplained = (state.unknown * good).sum(1, keepdim=True).clamp_min(1e-4)

        surprise = state.surprise.clamp(-3, 3)
        ratio = happened * (torch.log(unexplained / explained) + surprise)
        changed = _mix(happened, (softplus(state.changed) + ratio).clamp_max(15), state.changed)
        x = torch.cat([outcome, believed, outcome * (explained * 2 - 1), ratio, surprise, torch.tanh(changed / 5)], 1)
        _, (h, c) = self.lately(x, LSTMState(state.lately_h, state.lately_c))
        lately, lately_c = _mix(happened, h, state.lately_h), _mix(happened, c, state.lately_c)
        change = self.steepness * (changed - self.threshold) + self.change(lately)
        given_up, kept = happened * torch.sigmoid(change), 1 - happened * torch.sigmoid(change)

        recent = _mix(happened, torch.sigmoid(self.recent), torch.ones_like(happened))[:, :, None]
        tables = []
        for table, row in ((state.evidence, seen), (state.presses, situation)):
            since, late = table.unbind(1)
            added = key[:, :, None] * row[:, None]
            late = late * recent + added
            tables.append(torch.stack([_mix(given_up[:, :, None], late, since + added), late], 1))
        # What was pressed before a change was wanted as it is understood now.
        gone = (state.presses[:, 0] - state.presses[:, 1]).clamp_min(0) * given_up[:, :, None]
        wishes = state.wishes + torch.einsum("bks,bka->bsa", gone, state.believed)

        valid = state.valid * kept
        old = torch.tanh(_of(key, state.evidence[:, 0]) / 5)
        parts = [action, action * outcome, outcome.expand(-1, A), p, believed.expand(-1, A), luck.expand(-1, A)]
        parts += [state.others, waits.expand_as(p), action * luck * outcome, state.lift, seen, old]
        x = torch.cat([torch.stack(parts, 2), lately[:, None].expand(-1, A, -1)], 2)
        share = (key * valid).sum(1)[:, None, None]
        keys_h, keys_c = _written(self.key_memory, x, key, (state.keys_h, state.keys_c), share)
        wanted = action * p * good / explained  # by Bayes' rule
        x = torch.stack([action, action * outcome, action * believed, action * outcome * believed, wanted], 2)
        there_h, there_c = _written(self.situation_memory, x, situation, (state.situations_h, state.situations_c))
        state = state._replace(keys_h=keys_h, keys_c=keys_c, situations_h=there_h, situations_c=there_c)
        state = state._replace(lately_h=lately, lately_c=lately_c, evidence=tables[0], presses=tables[1], wishes=wishes)
        return state._replace(
            changed=changed + happened * logsigmoid(-change),
            valid=valid + key * (1 - valid),
            fits=state.fits * kept[:, :, None],
        )


def _given_up(rows: Tensor, state: EvidenceState) -> EvidenceState:
    """Without what is known of the keys whose rows [B, K] are taken by others."""
    kept = 1 - rows
    return state._replace(
        evidence=state.evidence * kept[:, None, :, None],
        presses=state.presses * kept[:, None, :, None],
        believed=state.believed * kept[:, :, None],
        valid=state.valid * kept,
        fits=state.fits * kept[:, :, None],
        kinds=state.kinds * kept[:, None],
    )


def _of(place: Tensor, table: Tensor) -> Tensor:
    """The row [B, …] of a table [B, N, …] at a place [B, N]; zeros where there is none."""
    at = place.argmax(1, keepdim=True)
    ones = [1] * (table.dim() - 2)
    row = table.gather(1, at.view(-1, 1, *ones).expand(-1, 1, *table.shape[2:])).squeeze(1)
    return row * place.gather(1, at).view(-1, *ones)


def _either(one: Tensor, other: Tensor) -> Tensor:
    return one + other - one * other


def _mix(share: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return old + share * (new - old)


def _written(
    cell: LSTMCell, x: Tensor, place: Tensor, tables: tuple[Tensor, Tensor], share: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Tables [B, N, A, H] after a step of a share of the row at a place [B, N]; elsewhere as they were."""
    rows = [_of(place, table) for table in tables]
    _, new = cell(x.flatten(0, 1), LSTMState(*((row * share).flatten(0, 1) for row in rows)))
    where = place[:, :, None, None]
    written = [
        torch.addcmul(table, where, (after.unflatten(0, x.shape[:2]) - row)[:, None])
        for table, row, after in zip(tables, rows, new, strict=True)
    ]
    return written[0], written[1]
