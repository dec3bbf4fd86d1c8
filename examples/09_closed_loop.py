"""Closed loop: a network learns to keep a tank level from a controller with a hidden mode, then acts by itself.

Run: python examples/09_closed_loop.py
"""

import itertools

import numpy as np
import torch

import treadle as td
from treadle.control import record
from treadle.training import parameter_groups, trace_batches, train

torch.manual_seed(0)
torch.set_num_threads(1)
STEPS = 300


class Tank:
    """The reading is the level: 0 low, 1 between, 2 high. The action opens (1) or shuts (0) the tap. It leaks."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)

    def reset(self):
        self.level = float(self.random.uniform(0, 1))
        return self.reading()

    def apply(self, action):
        self.level += (0.09 if action else 0.0) - float(self.random.uniform(0.02, 0.05))
        return self.reading(), False

    def reading(self):
        return 0 if self.level < 0.3 else 2 if self.level > 0.7 else 1


class TwoPoint:
    """The black box: opens at low, shuts at high, and in between goes on as before. That mode is never seen."""

    def reset(self):
        self.opens = False

    def act(self, reading):
        self.opens = reading == 0 or (self.opens and reading != 2)
        return int(self.opens)


loop = td.ClosedLoop(td.GRUCell(3 + 2, 12), readings=td.Discrete(3), actions=td.Discrete(2))
traces = [record(TwoPoint(), Tank(seed), 40) for seed in range(64)]
follower = loop.follower()  # the same network, fed with the recorded actions: all steps at once
optimiser = torch.optim.AdamW(parameter_groups(follower))
for step in train(follower, trace_batches(loop, traces, rows=32), optimiser, lambda n: n / STEPS, learning_rate=0.02):
    if step.step % 100 == 0:
        print(f"step {step.step}: loss {step.loss:.4f}")

session, expert, tank = loop.session(), TwoPoint(), Tank(seed=1000)
expert.reset()
wrong, levels = 0, []
for acted in itertools.islice(session.run(tank), 20_000):  # it would go on for ever
    wrong += acted.action != expert.act(acted.reading)
    levels.append(tank.level)
print(f"20,000 steps on its own: {wrong} actions that the controller would not have taken,")
print(f"the level was between {min(levels):.2f} and {max(levels):.2f}")
