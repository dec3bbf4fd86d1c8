"""Reading Keras: a file, its architecture, its layers one by one, and the equations that they are compared with.

`hdf5.py` reads arrays, `saved.py` a whole file, `architecture.py` says which layer reads what (`nested.py`: of models
within models, too), `options.py` what a layer is asked for, `readers.py` makes it. `layers.py`, `recurrent.py` and
`merging.py` are the layers, `network.py` runs them; `compared.py` finds the other side, Keras on a `clean_copy.py` of
the file, or `equations.py` where Keras cannot be had.
"""
