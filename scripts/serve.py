"""Serve exported models over REST and gRPC, as TF Serving does, for development and small deployments."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Annotated

import _path  # noqa: F401
import tyro

from keras_llm.command_line import parse, run_script
from keras_llm.errors import UserError


@dataclasses.dataclass
class Arguments:
    exported: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="EXPORTED")]
    """Directory with NAME/VERSION/saved_model.pb below it; of each model the newest version is served."""
    rest_port: int = 8501
    """Port of the REST API; 0 takes any that is free."""
    grpc_port: int | None = None
    """Port of the gRPC API, which TF Serving has at 8500; without it there is none; 0 takes any that is free."""
    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 lets other machines in: there is no password."""
    poll_seconds: float = 1.0
    """How often new versions are looked for; they replace the old one without a failed request."""
    model_config_file: Path | None = None
    """TF Serving's models.config: which models, versions and labels are served. Relative base paths, and those below /models
    where there is no such directory, are below EXPORTED."""
    allow_version_labels_for_unavailable_models: bool = False
    """Labels may name versions that are not served yet, as at the start."""
    batching_parameters_file: Path | None = None
    """TF Serving's batching.config: requests that come together are computed together."""
    monitoring_config_file: Path | None = None
    """TF Serving's monitoring.config: whether and where metrics are shown; without it at /monitoring/prometheus/metrics."""
    max_body_bytes: int = 100 * 2**20
    """Larger requests are refused: 413, RESOURCE_EXHAUSTED."""
    max_requests: int = 256
    """At once, of each protocol, waiting ones included; more are refused: 429, RESOURCE_EXHAUSTED."""
    timeout_seconds: float = 30.0
    """A request that takes longer is broken off: 504, DEADLINE_EXCEEDED."""


def main():
    arguments = parse(Arguments, __doc__)
    for name in ("poll_seconds", "max_body_bytes", "max_requests", "timeout_seconds"):
        if not getattr(arguments, name) > 0:
            raise UserError(f"--{name.replace('_', '-')} must be above 0. Received: {getattr(arguments, name)}.")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("keras_llm").setLevel(logging.INFO)
    from keras_llm.serving.server import Server, serve
    from keras_llm.serving.web import Limits

    serve(
        Server(
            arguments.exported,
            arguments.host,
            arguments.rest_port,
            arguments.grpc_port,
            arguments.poll_seconds,
            Limits(arguments.max_body_bytes, arguments.timeout_seconds, arguments.max_requests),
            model_config_file=arguments.model_config_file,
            allow_labels_for_unavailable=arguments.allow_version_labels_for_unavailable_models,
            batching_parameters_file=arguments.batching_parameters_file,
            monitoring_config_file=arguments.monitoring_config_file,
        )
    )


if __name__ == "__main__":
    run_script(main)
