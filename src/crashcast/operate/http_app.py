"""What `crashcast serve` answers over HTTP, in a thread beside its ticks: metrics, health, alarms, actions.

`/-/healthy` and `/-/ready` are named as Prometheus and Alertmanager name theirs. Everything can be read without a
token, so the address is loopback's by default; an action needs the token in CRASHCAST_TOKEN.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from crashcast.errors import UserError
from crashcast.operate import actions, issued_alarms, page
from crashcast.operate.actions import Action
from crashcast.operate.exposition import Exposition
from crashcast.operate.issued_alarms import actions_of
from crashcast.operate.optional_packages import needed_by
from crashcast.operate.score_output import reasons_as_json, rfc3339
from crashcast.operate.served_log import ServedLog
from crashcast.operate.state import State, doubts, utc_now
from crashcast.params.base import PATH
from crashcast.params.serve import Serve

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

TOKEN = "CRASHCAST_TOKEN"
MOST_BYTES = 64 * 1024  # of an action
PATIENCE_S = 10.0  # with a body that arrives slowly, and with requests at the end
MOST_CONNECTIONS = 100
READ_EVERY_S = 30.0  # the actions of the log
HEADERS = {  # of every answer
    "Content-Security-Policy": page.POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class HttpServer:
    """The server; a context manager that listens from the start of its block to the end.

    Parameters
    ----------
    serve : Serve
        The section of params.yaml.
    interval : timedelta
        Between two ticks.
    log : ServedLog
        Keeps the actions that are reported.
    environment : mapping
        CRASHCAST_TOKEN: who sends it may report actions. Without it nobody may.

    Raises
    ------
    UserError
        If the extra `operate` is not installed; on entering the block, if it cannot listen at `serve.listen`.
    """

    def __init__(
        self,
        serve: Serve,
        interval: timedelta,
        log: ServedLog,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        with needed_by("crashcast serve"):
            import starlette  # noqa: F401
            import uvicorn
        self._serve, self._interval, self._log = serve, interval, log
        self._recording = threading.Lock()  # two actions of one moment have one name
        self._token = environment.get(TOKEN, "").strip()
        self._exposition = Exposition(interval)
        self._state: State | None = None
        self._actions: Sequence[Action] = ()
        self._read_at = float("-inf")
        config = uvicorn.Config(
            _with_headers(self._app()),
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=int(PATIENCE_S),
        )
        self._server = uvicorn.Server(config)

    def __enter__(self) -> Self:
        """Listen; requests are answered from here on."""
        host, _, port = self._serve.listen.rpartition(":")
        try:
            family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
            self._socket = socket.create_server((host.strip("[]"), int(port)), family=family)
        except OSError as error:
            raise UserError(f"{PATH}: serve.listen: {self._serve.listen}: {error.strerror}") from None
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, name="http")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Answer what was asked, then stop listening."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def show(self, state: State) -> None:
        """Answer from this state on; call it after each tick, and whenever it changed."""
        self._exposition.show(state)
        self._state = state

    def _app(self) -> Starlette:
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/metrics", self._metrics),
                Route("/-/healthy", self._healthy),
                Route("/-/ready", self._ready),
                Route("/api/v1/alarms", self._alarms),
                Route("/api/v1/actions", self._action, methods=["POST"]),
            ]
        )

    def _page(self, request: Request) -> Response:
        from starlette.responses import HTMLResponse

        is_refreshed = request.query_params.get("refresh") != "off"
        text = page.render(self._state, utc_now(), self._interval, self._serve, is_refreshed, self._reported())
        return HTMLResponse(text, headers={"Refresh": str(page.REFRESH_S)} if is_refreshed else None)

    def _metrics(self, _: Request) -> Response:
        from starlette.responses import Response

        return Response(self._exposition.text(), media_type=self._exposition.content_type)

    def _healthy(self, _: Request) -> Response:
        return _plain("crashcast serve answers.", 200)

    def _ready(self, _: Request) -> Response:
        found = doubts(self._state, utc_now(), self._interval)
        if found:
            return _plain("\n".join(f"{name}: {words}" for name, words in found.items()), 503)
        return _plain("The scores are up to date.", 200)

    def _alarms(self, _: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse(as_json(self._state, utc_now(), self._interval, self._reported()))

    async def _action(self, request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        if not self._token:
            return _plain(f"Actions are refused: {TOKEN} is not set where crashcast serve runs.", 403)
        if not _is_token(request.headers.get("Authorization", ""), self._token):
            refusal = _plain(f"Send the header Authorization: Bearer, with the value of {TOKEN}.", 401)
            refusal.headers["WWW-Authenticate"] = "Bearer"
            return refusal
        try:
            async with asyncio.timeout(PATIENCE_S):
                body = await _body(request)
        except TimeoutError:
            return _plain("The body did not arrive in time.", 408)
        if body is None:
            return _plain(f"An action has at most {MOST_BYTES:,} bytes.", 413)
        try:
            action = actions.parse(body, utc_now())
            if not self._is_known(action.server_id):
                raise UserError(f"server: no server {action.server_id} was scored")
        except UserError as error:
            return _plain(f"This is no action: {error}", 400)
        try:
            await run_in_threadpool(self._record, action)
        except UserError as error:
            return _plain(f"The action was not recorded: {error}", 503)
        return _plain("The action is recorded.", 201)

    def _record(self, action: Action) -> None:
        with self._recording:
            actions.record(action, self._log, utc_now())
            self._read_at = float("-inf")

    def _reported(self) -> Sequence[Action]:
        """Return the actions since the oldest alarm that is shown; those known before, if the log cannot be read.

        They are read here, not at each tick, so that an action of the command line shows within a minute.
        """
        state = self._state
        if state is None:
            return ()
        with self._recording:
            if time.monotonic() > self._read_at + READ_EVERY_S:
                opened = [one.opened_at for one in state.alarms] + [one.opened_at for one in state.ended]
                with suppress(UserError, OSError):
                    self._actions = issued_alarms.reported(self._log, min(opened)) if opened else ()
                self._read_at = time.monotonic()
            return self._actions

    def _is_known(self, server: str) -> bool:
        """Tell whether a server can be in this fleet; before the first scores any can."""
        state = self._state
        if state is None or state.scores is None:
            return True
        known = {alarm.server_id for alarm in state.alarms}.union(state.groups, state.scores.silent)
        return server in known or server in state.scores.rows["server_id"]


def as_json(state: State | None, now: datetime, interval: timedelta, actions: Sequence[Action] = ()) -> dict[str, Any]:
    """Return the open alarms as plain values, with the actions that were reported; moments in RFC 3339, UTC."""
    found: dict[str, Any] = {"doubts": doubts(state, now, interval), "problems": {}, "alarms": []}
    if state is None:
        return found
    if state.scores is not None:
        used = state.scores.deployment
        found |= {"model": used.name, "threshold": used.model.threshold, "at": rfc3339(state.scores.moment)}
    alarms = [
        {
            "server": alarm.server_id,
            "group": alarm.group,
            "opened_at": rfc3339(alarm.opened_at),
            "renewed_at": rfc3339(alarm.renewed_at),
            "ends_at": rfc3339(alarm.ends_at),
            "risk": alarm.risk,
            "reasons": reasons_as_json(alarm.reasons),
            "actions": [
                {"what": one.what, "at": rfc3339(one.at), "who": one.who, "source": one.source}
                for one in actions_of(alarm.server_id, alarm.opened_at, alarm.ends_at, actions)
            ],
        }
        for alarm in state.alarms
    ]
    return found | {"ticked_at": rfc3339(state.ticked_at), "problems": dict(state.problems), "alarms": alarms}


def _plain(text: str, status: int) -> Response:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(f"{text}\n", status)


def _is_token(header: str, token: str) -> bool:
    kind, _, sent = header.partition(" ")
    sent_bytes = sent.strip().encode("latin-1")  # as they came
    return kind.lower() == "bearer" and hmac.compare_digest(sent_bytes, token.encode(errors="surrogateescape"))


async def _body(request: Request) -> bytes | None:
    """Return the body; None if it is too long, whether it says so beforehand or not."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > MOST_BYTES:
            return None
    return bytes(found)


def _with_headers(app: ASGIApp) -> ASGIApp:
    """Add `HEADERS` to every answer, also to those of Starlette itself."""
    own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

    async def with_headers(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        await app(scope, receive, send_with_headers)

    return with_headers
