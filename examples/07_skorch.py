"""scikit-learn, through skorch: fit, predict, cross-validation.

Run: python examples/07_skorch.py (needs: pip install skorch)
"""

import numpy as np
import torch
from sklearn.model_selection import cross_val_score
from skorch import NeuralNetClassifier

from treadle.training import sequence_model


class LastAnswer(torch.nn.Module):
    """Many-to-one: the scores after the last step."""

    def __init__(self, hidden_size=16):
        super().__init__()
        self.rnn = sequence_model(1, 2, "gru", layers=1, hidden_size=hidden_size)

    def forward(self, x):
        scores, _ = self.rnn(x)
        return scores[:, -1]


torch.manual_seed(0)
torch.set_num_threads(1)
rng = np.random.default_rng(0)
y = rng.integers(0, 2, 240)
X = rng.normal(0, 0.2, (240, 8, 1)).astype(np.float32)
X[:, 2, 0] += y * 4 - 2  # the answer lies five steps back

net = NeuralNetClassifier(
    LastAnswer,
    criterion=torch.nn.CrossEntropyLoss,
    optimizer=torch.optim.AdamW,
    lr=0.01,
    max_epochs=16,
    batch_size=16,
    train_split=None,
    verbose=0,
)
scores = cross_val_score(net, X, y, cv=2)
print("correct, in cross-validation:", np.round(scores, 2))
assert scores.min() > 0.9

net.set_params(module__hidden_size=8).fit(X, y)
print("predictions:", net.predict(X[:8]), "truth:", y[:8])
