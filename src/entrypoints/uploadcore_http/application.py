"""The HTTP service, in two forms: `create_app` owns what it serves, `create_asgi` serves a core that its host has opened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

from litestar import Litestar, Request
from litestar.di import Provide
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler

from uploadcore import UploadCore
from uploadcore.ports import ObjectStore
from uploadcore_app import Container, Settings, checked_origins, open_app
from uploadcore_app.measured import MeasuredStore
from uploadcore_filesystem import FilesystemObjectStore
from uploadcore_http.asgi import AsgiApp
from uploadcore_http.auth import Authenticator, LoopbackDeveloper
from uploadcore_http.background import in_background
from uploadcore_http.data import data_app
from uploadcore_http.edge import Edge, request_id_of
from uploadcore_http.failures import problem_for
from uploadcore_http.files import FILE_ROUTES
from uploadcore_http.lifecycle import Lifecycle
from uploadcore_http.logs import log_request, request_log
from uploadcore_http.metrics import Metrics
from uploadcore_http.openapi import ApiDocument
from uploadcore_http.operations import OPERATION_ROUTES, Health, MetricsAccess
from uploadcore_http.rate_limit import RateLimit
from uploadcore_http.requests import ApiRequest
from uploadcore_http.responses import BytesResponse
from uploadcore_http.shortcut import Shortcut
from uploadcore_http.tokens import JwtAuthenticator
from uploadcore_http.uploads import UPLOAD_ROUTES

__all__ = ["ROUTES", "Running", "create_app", "create_asgi"]

ROUTES = (*UPLOAD_ROUTES, *FILE_ROUTES, *OPERATION_ROUTES)
"""Every handler there is: the application, the OpenAPI document and the tested matrix of roles are made of this."""


def create_asgi(
    core: UploadCore,
    *,
    authenticate: Authenticator,
    public_url: str | None = None,
    cors_origins: Collection[str] = (),
    metrics_token: str | None = None,
    max_in_flight: int = 1_000,
    rate_limit: str | None = None,
    logs_requests: bool = False,
) -> AsgiApp:
    """The service as an ASGI application to mount in another, for a core which that other opens and closes.

    Nothing here has a lifespan: a mounted application's would not run. The host also runs `core.run_background()`, or `core.sweep()`
    and `core.relay()` now and then.

    Args:
        core: Open while requests are served.
        authenticate: Recognises who asks, from the ASGI scope. `None` is answered with 401.
        public_url: Where clients reach this application, mount point included. By default links follow each request.
        cors_origins: Origins of browser applications.
        metrics_token: Bearer token for `/metrics` from elsewhere than loopback.
        max_in_flight: Requests served at a time, beyond which the answer is 503.
        rate_limit: How often one owner may ask, such as `100/second`, beyond which the answer is 429.
        logs_requests: Whether each request is a line in the log; by default that is the host's business.

    Raises:
        ValueError: An origin is not one as browsers send it, or the limit can't be read.

    Example:
        >>> from starlette.applications import Starlette
        >>> from starlette.routing import Mount
        >>> from uploadcore import UploadCore
        >>> from uploadcore_http import Principal, create_asgi
        >>> from uploadcore_memory import MemoryDatabase, MemoryObjectStore
        >>> async def authenticate(scope):
        ...     return Principal(owner="u_1")
        >>> core = UploadCore(store=MemoryObjectStore(), database=MemoryDatabase())
        >>> host = Starlette(routes=[Mount("/uploads", create_asgi(core, authenticate=authenticate))])
    """
    lifecycle, metrics = Lifecycle(is_started=True), Metrics(core, max_in_flight=max_in_flight)
    return Edge(
        Shortcut(cast(AsgiApp, _routed(core, lifecycle, metrics, metrics_token)), core),
        authenticate=authenticate,
        lifecycle=lifecycle,
        metrics=metrics,
        data=_data(core.store),
        public_url=public_url,
        cors_origins=checked_origins(cors_origins),
        max_in_flight=max_in_flight,
        rate_limit=None if rate_limit is None else RateLimit(rate_limit),
        log_request=log_request if logs_requests else None,
    )


def create_app(settings: Settings, container: Container | None = None) -> Litestar:
    """The service as an application of its own: its lifespan opens what the settings ask for, and sweeps and relays beside the requests.

    Args:
        settings: The configuration.
        container: With providers overridden, for tests and for hosts that bring their own parts.

    Raises:
        ConfigurationError: A setting can't be used; or it would listen on more than loopback, and nothing tells who somebody is.

    Example:
        >>> from uploadcore_app import load_settings
        >>> app = create_app(load_settings(storage="memory://", database="memory://"))
    """
    settings.check_exposure()
    container = Container() if container is None else container
    container.settings.override(settings)
    core, measurements = container.core(), container.measurements()
    lifecycle, metrics = Lifecycle(), Metrics(core, measurements, max_in_flight=settings.max_in_flight)

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        background = in_background(core) if settings.background else nullcontext()
        async with open_app(settings, container, waits=True), background:
            lifecycle.is_started = True
            try:
                yield
            finally:
                lifecycle.is_started = False

    metrics_token = None if settings.metrics_token is None else settings.metrics_token.get_secret_value()
    application = _routed(core, lifecycle, metrics, metrics_token, lifespan=[lambda _: opened()])
    edge = Edge(
        Shortcut(cast(AsgiApp, application.asgi_handler), core),
        authenticate=_authenticator(settings),
        lifecycle=lifecycle,
        metrics=metrics,
        data=_data(container.store()),
        public_url=settings.public_url,
        cors_origins=settings.cors_origins,
        max_in_flight=settings.max_in_flight,
        rate_limit=None if settings.rate_limit is None else RateLimit(settings.rate_limit),
        log_request=request_log(settings.log_format, settings.log_level),
        tracing=container.tracing(),
    )
    # Around Litestar's own handler, not among its middleware: those see no request that matches no route.
    application.asgi_handler = cast(Any, edge)
    application.state["running"] = Running(opened, lifecycle)
    return application


@dataclass(frozen=True, slots=True)
class Running:
    """What whoever serves an application of `create_app` needs to know of it.

    Attributes:
        opened: What its lifespan does, without Litestar around it, which wraps what goes wrong into groups of exceptions.
        lifecycle: Tells load balancers whether to send requests.
    """

    opened: Callable[[], AbstractAsyncContextManager[None]]
    lifecycle: Lifecycle

    @classmethod
    def of(cls, application: Litestar) -> Running:
        """What `create_app` left in the application's state."""
        running = application.state["running"]
        assert isinstance(running, cls)
        return running


def _authenticator(settings: Settings) -> Authenticator:
    return (
        JwtAuthenticator.from_settings(settings)
        if settings.has_authentication
        else LoopbackDeveloper(settings.cors_origins)
    )


def _data(store: ObjectStore) -> AsgiApp | None:
    """The endpoint of the store's signed URLs, where they lead here. What `open_app` makes is measured; what it signs is not."""
    if isinstance(store, MeasuredStore):
        store = store.within
    return data_app(store) if isinstance(store, FilesystemObjectStore) else None


def _routed(
    core: UploadCore,
    lifecycle: Lifecycle,
    metrics: Metrics,
    metrics_token: str | None,
    lifespan: Sequence[Any] = (),
) -> Litestar:
    """Litestar, with all of its own that is not asked for left out."""
    document = ApiDocument(ROUTES)
    parts: dict[str, Any] = {
        "core": core,
        "health": Health(core, lifecycle),
        "metrics": metrics,
        "metrics_access": MetricsAccess(metrics_token),
        "document": document,
    }
    return Litestar(
        route_handlers=[*_allow_handlers(), *ROUTES],  # theirs first, or Litestar makes its own
        dependencies={name: _given(part) for name, part in parts.items()},
        request_class=ApiRequest,
        exception_handlers={Exception: _problem},
        lifespan=list(lifespan),
        openapi_config=None,
        logging_config=None,
    )


def _allow_handlers() -> Iterator[HTTPRouteHandler]:
    """What answers OPTIONS. Litestar's own says of a path with several handlers what the first of them takes."""
    methods: dict[str, set[str]] = {}
    for handler in ROUTES:
        for path in handler.paths:
            methods.setdefault(path, {"OPTIONS"}).update(handler.http_methods)
    for path, taken in methods.items():
        yield HTTPRouteHandler(path, http_method=HttpMethod.OPTIONS, sync_to_thread=False)(_allow(sorted(taken)))


def _allow(methods: Sequence[str]) -> Callable[[], BytesResponse]:
    def options() -> BytesResponse:
        return BytesResponse(b"", 204, headers={"allow": ", ".join(methods)})

    return options


def _given(part: Any) -> Provide:
    def give() -> Any:
        return part

    return Provide(give, sync_to_thread=False)


def _problem(request: Request[Any, Any, Any], error: Exception) -> Any:
    return problem_for(error, request_id_of(request.scope))
