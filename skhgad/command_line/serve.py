"""The command `serve`."""

import os
import sys
from pathlib import Path

from ..text import printable
from .arguments import (
    ROI_OF_FIT,
    add_drift_options,
    add_machine_options,
    add_roi_option,
    add_threshold_option,
    drift_options,
    load_for_work,
    parse_port,
    parse_positive,
)

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
TOKEN_VARIABLE = "SKHGAD_TOKEN"


def add_options(commands):
    """Add the command."""
    text = "Answer over HTTP: images in, verdicts out."
    command = commands.add_parser(
        "serve",
        help=text,
        description=text,
        epilog="POST /score takes images as multipart/form-data, field 'files', and answers with "
        "the JSON of score --jsonl; POST /map draws one heat map. GET /health, /drift, /metrics "
        "(Prometheus), /docs and /openapi.json tell the rest. A replaced MODEL is read again. "
        "The packages fastapi, uvicorn and python-multipart must be installed.",
    )
    command.add_argument("model", metavar="MODEL", help="folder that fit wrote")
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, this machine alone); any other needs a "
        f"token in the environment variable {TOKEN_VARIABLE} or in --token-file",
    )
    command.add_argument(
        "--port", type=parse_port, default=8000, help="0 = a free one (default: %(default)s)"
    )
    command.add_argument(
        "--token-file",
        metavar="FILE",
        help="file with the token that requests must send as 'Authorization: Bearer TOKEN'",
    )
    command.add_argument(
        "--max-images",
        type=parse_positive,
        default=32,
        metavar="N",
        help="most images in a request, never more than --max-waiting (default: %(default)s)",
    )
    command.add_argument(
        "--max-mib",
        type=parse_positive,
        default=32,
        metavar="N",
        help="largest request, in MiB (default: %(default)s)",
    )
    command.add_argument(
        "--max-megapixels",
        type=parse_positive,
        default=50,
        metavar="N",
        help="largest image, in millions of pixels; those of a request may have 4 times as many "
        "together, and those of all requests at once 16 times (default: %(default)s)",
    )
    command.add_argument(
        "--max-waiting",
        type=parse_positive,
        default=128,
        metavar="N",
        help="most images that wait to be scored; more are answered with 503 (default: "
        "%(default)s)",
    )
    add_drift_options(command)
    command.add_argument(
        "--drift-state",
        metavar="FILE",
        help="JSON file in which the evidence of drift outlives the process",
    )
    add_threshold_option(command, "for this run only; the model stays")
    add_roi_option(command, f"for this run only; {ROI_OF_FIT}")
    add_machine_options(command)
    command.set_defaults(run=run)


def run(args):
    """Serve until the process is ended."""
    from ..storage.files import check_file_place

    token = read_token(args)
    uvicorn = server_library()
    if args.drift_state is not None:
        check_file_place(args.drift_state, "--drift-state")
    app = build(args, token)
    config = uvicorn.Config(
        app,
        http=_impatient(),
        host=args.host,
        port=args.port,
        log_level="warning",
        limit_concurrency=4 * max(args.max_waiting, 8),
        timeout_graceful_shutdown=30,
    )
    _announcing(uvicorn.Server, config, args).run()


def build(args, token):
    """Load the model and return the application."""
    from ..service.batching import Batcher
    from ..service.figures import Figures
    from ..service.held_model import HeldModel
    from ..service.server import Limits, build_app

    model = HeldModel(args.model, lambda: load_for_work(args), _warn)
    figures = Figures()
    batcher = Batcher(
        model,
        args.max_waiting,
        figures,
        drift=drift_options(args),
        drift_state=args.drift_state,
        warn=_warn,
    )
    # More than may wait would be answered with 503 for ever.
    n_images = min(args.max_images, args.max_waiting)
    limits = Limits(n_images, args.max_mib << 20, args.max_megapixels * 1_000_000)
    hosts = ("localhost", "127.0.0.1", "[::1]") if args.host in _LOOPBACK else ("*",)
    return build_app(batcher, figures, limits=limits, token=token, hosts=hosts)


def read_token(args):
    """Return the token, or None on loopback; ValueError if one is needed and there is none."""
    token = os.environ.get(TOKEN_VARIABLE)
    if args.token_file is not None:
        token = Path(args.token_file).read_text(encoding="utf-8", errors="replace")
    token = None if token is None else token.strip()
    if token is not None and (not token or not token.isascii() or not token.isprintable()):
        raise ValueError("the token is empty, or holds characters that no header can.")
    if token is None and args.host not in _LOOPBACK:
        raise ValueError(
            f"--host {args.host!r} lets other machines ask, so a token is needed: put one into the "
            f"environment variable {TOKEN_VARIABLE}, or into a file and give --token-file."
        )
    return token


def server_library():
    """Import uvicorn; ImportError says how to install what `serve` needs."""
    from ..version import how_to_install

    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn
    except ImportError as error:
        packages = ("fastapi", "uvicorn", "python-multipart")
        raise ImportError(
            f"serve needs {error.name}. Install it: {how_to_install('serve', *packages)}."
        ) from error
    return uvicorn


def _impatient():
    """Return uvicorn's protocol, but for a limit to how long a connection waits for a request."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    from ..service.body_limit import SECONDS

    class Protocol(AutoHTTPProtocol):
        def connection_made(self, transport):
            super().connection_made(transport)
            self.loop.call_later(SECONDS, self.end_if_silent, None)

        def on_response_complete(self):
            self.loop.call_later(SECONDS, self.end_if_silent, self.cycle)
            super().on_response_complete()

        def end_if_silent(self, cycle):
            # The headers of the request after `cycle` are not there; `BodyLimit` limits the rest.
            if self.cycle is cycle and (cycle is None or cycle.response_complete):
                self.transport.close()

    return Protocol


def _announcing(base, config, args):
    """Return a server that says where it listens, once it does."""

    class Server(base):
        async def startup(self, sockets=None):
            try:
                await super().startup(sockets=sockets)
            except SystemExit:  # with the status of images that cannot be read; why is logged
                raise OSError(
                    f"--host {args.host!r} --port {args.port}: cannot listen there."
                ) from None
            for one in self.servers if self.started else ():
                for socket in one.sockets:
                    port = socket.getsockname()[1]
                    print(f"listening on http://{args.host}:{port}", flush=True)
                    return

    return Server(config)


def _warn(text):
    print(f"skhgad: warning: {printable(text)}", file=sys.stderr, flush=True)
