"""PyTorch Lightning with truncated BPTT: the state is carried from window to window.

Run: python examples/06_lightning.py (needs: pip install lightning)
"""

import logging
import warnings

import lightning
import torch
from torch.nn import functional as F

import treadle as td
from treadle.training import parameter_groups

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Windows(torch.utils.data.IterableDataset):
    """Eight endless waves, twenty steps at a time; the next value is to be told."""

    def __iter__(self):
        phase, frequency = torch.rand(8, 1) * 6, torch.linspace(0.2, 0.4, 8)[:, None]
        for window in range(40):
            waves = (phase + frequency * (torch.arange(21) + 20 * window)).sin()[..., None]
            yield waves[:, :-1], waves[:, 1:]


class Forecaster(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        g = td.Graph(1)
        layer = g.add("layer", td.LSTMCell(1, 24), reads=g.x)
        head = g.add("head", torch.nn.Linear(24, 1), reads=layer)
        self.rnn = td.Recurrent(g.outputs(head))
        self.state, self.losses = None, []

    def on_train_epoch_start(self):
        self.state = None

    def training_step(self, batch, index):
        x, y = batch
        ys, state = self.rnn(x, self.state)
        self.state = td.detach(state)  # carried on; the gradient ends here
        loss = F.mse_loss(ys, y)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(parameter_groups(self.rnn), lr=0.01)


torch.manual_seed(0)
torch.set_num_threads(1)
model = Forecaster()
options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", gradient_clip_val=1.0, **options)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Lightning has advice about workers and lengths
    trainer.fit(model, torch.utils.data.DataLoader(Windows(), batch_size=None))
print(f"loss {model.losses[0]:.3f} at first, {model.losses[-1]:.4f} after {len(model.losses)} windows")
assert model.losses[-1] < 0.1 * model.losses[0]
