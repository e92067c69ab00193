"""Composition root: settings → Studio → worker → page. `python -m app`, or `make run`."""

from __future__ import annotations

import os
import socket
import sys
import threading
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read by gradio at import

from app import text
from backend.errors import StudioError
from backend.settings import Settings, from_environment, refuse_open_door


def main() -> int:
    """Start everything; the exit code says whether it could."""
    try:
        settings = from_environment()
        refuse_open_door(settings)
        refuse_taken_port(settings.host, settings.port)
        from backend.api import Studio

        studio = Studio(settings)
        studio.ensure_worker()
    except (StudioError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    threading.Thread(target=keep_worker, args=(studio,), daemon=True).start()
    serve(studio, settings)
    return 0


def refuse_taken_port(host: str, port: int) -> None:
    """One sentence now instead of a traceback from the server later."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if port and error.errno in (98, 48, 10048):
                raise OSError(text.PORT_TAKEN.format(port=port, host=host, other=port + 1)) from None
            raise OSError(text.ADDRESS_BAD.format(host=host, port=port, reason=error.strerror)) from None


def keep_worker(studio: Any, seconds: float = 5.0) -> None:
    """Start the worker again if it is gone: it ends by itself when it has nothing to do and the page is gone."""
    pause = threading.Event()
    while not pause.wait(seconds):
        try:
            studio.ensure_worker()
        except Exception as error:  # the page must live on
            print(f"worker: {error}", file=sys.stderr)


def serve(studio: Any, settings: Settings) -> None:
    """Launch and block until Ctrl-C."""
    from app.layout import build_app
    from app.theme import theme
    from app.web import head

    page = build_app(studio)
    page.queue(max_size=200, default_concurrency_limit=8)
    _, url, _ = page.launch(
        server_name=settings.host, server_port=settings.port, auth=settings.login,
        prevent_thread_lock=True, quiet=True, show_error=False, share=False,
        theme=theme(), head=head(), run_history=False, ssr_mode=False, enable_monitoring=False, strict_cors=True,
        max_file_size="50mb", allowed_paths=[], footer_links=[], inbrowser=False,
    )  # fmt: skip
    print(f"{text.TITLE}: {url}\n{text.READY}", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("\nStopped. A run that is going on continues; start again to see it.", flush=True)
    finally:
        page.close(verbose=False)


if __name__ == "__main__":
    sys.exit(main())
