"""How layers connect: the seven named wirings, and a graph of your own.

Run: python examples/02_wirings.py
"""

import torch

import treadle as td

torch.manual_seed(0)
I, H, L = 10, 16, 3
xs = torch.randn(4, 20, I)

for wiring in td.WIRINGS:
    # What a layer reads depends on the wiring: `of` makes each cell as wide as it has to be.
    stack = td.Stack.of(td.LSTMCell, input_size=I, hidden_size=H, layers=L, wiring=wiring)
    ys, state = td.Recurrent(stack)(xs)
    print(f"{wiring:9} layers read {[cell.input_size for cell in stack.cells]}, state: {', '.join(state)}")

# Any other wiring is a graph: here the upper layer reads the input as it was three steps ago,
# and what it concludes goes back to the lower one.
g = td.Graph(I)
above = g.later("high", H)
low = g.add("low", td.GRUCell(I + H, H), reads=[g.x, above.delayed()])
high = g.add("high", td.LSTMCell(H + I, H), reads=[low, g.x.delayed(3)])
rnn = td.Recurrent(g.outputs(td.sum_of(low, high)))
ys, state = rnn(xs)
print(rnn)
