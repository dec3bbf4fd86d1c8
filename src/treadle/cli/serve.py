"""`treadle serve`: answer over the network, a live session for each client."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from treadle.cli.options import choice, use_one_thread

if TYPE_CHECKING:
    from treadle.serving.addresses import Address
    from treadle.serving.gate import Gate
    from treadle.serving.options import Options
    from treadle.serving.server import Certificates

MOST = 2**31 - 1
HERE = {"grpc": "127.0.0.1:8001", "metrics": "127.0.0.1:8002"}
"""Where else a server of this machine listens."""


def serve(
    models: Annotated[
        list[str],
        typer.Argument(help="Files of networks, saved by treadle.save or treadle fit; NAME=FILE gives one a name."),
    ],
    http: Annotated[str, typer.Option(help="Address for HTTP and WebSockets; none for nowhere.")] = "127.0.0.1:8000",
    grpc: Annotated[
        str | None, typer.Option(help="Address for gRPC; none for nowhere.", show_default="127.0.0.1:8001")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Address for Prometheus, path /metrics; none for nowhere.", show_default="127.0.0.1:8002"),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with a token a line, or an owner and a token; needed for any address but loopback."),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin of web pages that may ask, such as https://example.org; may be repeated."),
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="File of the TLS certificate, as PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="File of the certificate's key, as PEM.")] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="Folder, or redis://HOST, where the states of sequences survive the end of the server."),
    ] = None,
    keep_every: Annotated[
        int, typer.Option(min=1, max=MOST, help="Number of steps after which a state is kept; 1 loses none.")
    ] = 1,
    rows: Annotated[int, typer.Option(min=1, max=4096, help="Maximum number of sequences that step together.")] = 16,
    wait_us: Annotated[
        int, typer.Option(min=0, max=10**7, help="Microseconds to wait for more sequences to step together.")
    ] = 0,
    idle: Annotated[float, typer.Option(min=0.1, help="Seconds after which an unused sequence expires.")] = 300.0,
    deadline: Annotated[
        float, typer.Option(min=0.001, help="Maximum number of seconds that a request waits for its step.")
    ] = 10.0,
    sequences: Annotated[
        int, typer.Option(min=1, max=MOST, help="Maximum number of live sequences of each network.")
    ] = 100_000,
    queue: Annotated[
        int, typer.Option(min=1, max=MOST, help="Maximum number of requests that wait, of each network.")
    ] = 1024,
    request_bytes: Annotated[int, typer.Option(min=1, max=MOST, help="Maximum size of a request, in bytes.")] = 16
    << 20,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Maximum number of requests a second of each token's owner.")
    ] = None,
    on_reload: Annotated[
        str,
        typer.Option(
            help="Fate of sequences when their network's file is replaced: finish on the old one, reset, or refuse."
        ),
    ] = "finish",
    log: Annotated[str, typer.Option(help="Form of the log on stderr: text or json, an object a line.")] = "text",
    on: Annotated[str | None, typer.Option(help="Cluster to serve on: ray.", show_default="this machine")] = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Number of replicas (with --on ray).", show_default="2")
    ] = None,
) -> None:
    """Serve networks by the Open Inference Protocol (KServe v2), with a live session for each client's sequence.

    Ctrl-C or SIGTERM ends it: what is under way is finished, states are kept. A file that is replaced is served as the
    next version; SIGHUP looks for that at once.
    """
    from treadle.serving.addresses import Address, refuse_clashes, refuse_strangers
    from treadle.serving.dataplane import Dataplane
    from treadle.serving.gate import Gate
    from treadle.serving.logs import FORMS, log_to_stderr
    from treadle.serving.options import ON_RELOAD, Options
    from treadle.serving.server import Certificates, Server
    from treadle.serving.stores import open_store
    from treadle.serving.tokens import Tokens

    choice("--on-reload", on_reload, ON_RELOAD)
    if (tls_certificate is None) != (tls_key is None):
        raise typer.BadParameter("--tls-certificate and --tls-key belong together: pass both")
    choice("--log", log, FORMS)
    said = {"grpc": grpc, "metrics": metrics}
    if on is None and replicas is not None:
        raise typer.BadParameter("--replicas needs --on ray")
    if on is not None:
        check_for_ray(on, http, keep, said)
    said = {"http": http} | {option: text or ("none" if on else HERE[option]) for option, text in said.items()}
    addresses = {option: Address.parse(option, text) for option, text in said.items()}
    refuse_clashes(addresses)
    refuse_strangers(addresses, token_file is not None)
    tokens = Tokens() if token_file is None else Tokens.read(token_file)
    certificates = None if tls_certificate is None or tls_key is None else Certificates(tls_certificate, tls_key)
    if certificates is not None:
        certificates.check()
    store = None if keep is None or on is not None else open_store(keep)
    use_one_thread()
    log_to_stderr(log)
    options = Options(
        rows=rows,
        wait=wait_us / 1e6,
        idle=idle,
        deadline=deadline,
        sequences=sequences,
        queue=queue,
        request_bytes=request_bytes,
        rate=rate,
        keep_every=keep_every,
        on_reload=on_reload,
    )
    gate = Gate(tokens, origin or (), local=token_file is None)
    if on is not None and keep is not None:
        run_replicas(named(models), options, gate, keep, replicas or 2, addresses["http"], certificates)
        return
    plane = Dataplane(named(models), options, store)
    server = Server(plane, gate, **addresses, certificates=certificates)

    def ready() -> None:
        for kind, place in server.addresses.items():
            print(f"{kind}: {place}", flush=True)
        print("Ctrl-C stops it.", flush=True)

    server.run(ready)


def check_for_ray(on: str, http: str, keep: str | None, others: dict[str, str | None]) -> None:
    """Refuse what there is not on a cluster."""
    choice("--on", on, ("ray",))
    for option, text in others.items():
        if text not in (None, "none"):
            raise typer.BadParameter(f"--{option}: with --on ray there is HTTP alone: leave --{option} out")
    if http == "none":
        raise typer.BadParameter("--http: with --on ray there is HTTP alone: pass an address")
    if keep is None:
        raise typer.BadParameter("--on ray needs --keep: a folder that all machines see, or redis://HOST")


def run_replicas(
    models: dict[str, Path],
    options: "Options",
    gate: "Gate",
    keep: str,
    replicas: int,
    http: "Address | None",
    certificates: "Certificates | None",
) -> None:
    """Serve on a cluster of Ray, or change the number of replicas of what it serves."""
    from treadle.errors import TreadleError
    from treadle.serving.on_ray import deployed, run_on_ray

    assert http is not None
    try:
        app = deployed(models, options, gate, keep, replicas)
    except TreadleError as error:
        raise typer.BadParameter(f"--on ray: {error}") from None

    def ready(was_there: bool) -> None:
        print(f"http: {'http' if certificates is None else 'https'}://{http}, {replicas} replicas", flush=True)
        said = "It was served already: the number of replicas is as asked." if was_there else "Ctrl-C stops it."
        print(said, flush=True)

    run_on_ray(app, replicas, http, certificates, ready)


def named(models: list[str]) -> dict[str, Path]:
    """Files by the names of their models: ``NAME=FILE``, or the file's own name without its ending."""
    found: dict[str, Path] = {}
    for one in models:
        name, equals, file = one.partition("=")
        path = Path(file if equals else one)
        name = name if equals else path.name.removesuffix("".join(path.suffixes[-1:]))
        if not name or name == "stats" or "/" in name or name in found:
            raise typer.BadParameter(
                f"{one}: {name!r} cannot be the name of a model, or is there twice: pass NAME=FILE"
            )
        found[name] = path
    return found
