"""Live over the network: models served by the Open Inference Protocol, a session for each client's sequence.

Read `dataplane.py` first, which knows of no network: models by name, and what is asked of their sequences. `served.py`
is one model and its versions, `live_model.py` one version: what is decided before a step (`beginnings.py`), the turns
(`scheduler.py`), the sessions (`sessions.py`), and states that are kept elsewhere (`memory.py`). What comes in over a
network is `rest.py`, `websocket.py` and `grpc_services.py`; `server.py` listens.
"""

from treadle.serving.application import application
from treadle.serving.on_ray import ray_application
from treadle.serving.options import Options
from treadle.serving.refusals import Kind, Refused

__all__ = ["Kind", "Options", "Refused", "application", "ray_application"]
