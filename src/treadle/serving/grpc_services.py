"""All that a server answers over gRPC."""

from treadle.serving.dataplane import Dataplane
from treadle.serving.grpc_health import HealthService
from treadle.serving.grpc_reflection import PACKAGES, ReflectionService
from treadle.serving.grpc_server import Service
from treadle.serving.grpc_service import InferenceService
from treadle.serving.tokens import Tokens


def grpc_services(plane: Dataplane, tokens: Tokens) -> list[Service]:
    """The protocol's service, and gRPC's own of health and reflection.

    Args:
        plane: what is asked.
        tokens: who may ask, except for health.
    """
    inference = InferenceService(plane, tokens)
    health = HealthService(plane, [inference.file.service])
    files = [inference.file, health.file]
    return [inference, health, *(ReflectionService(package, tokens, files) for package in PACKAGES)]
