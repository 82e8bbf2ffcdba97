"""The REST API: its routes, and how faults are said.

What belongs here: HTTP. What does not: who answers and what (`predictor`), what bodies hold
(`bodies`), what is refused unseen (`limits`).

Two pages, `/` and `/docs`, need nothing but this server: no address of another stands in them, and
the browser is told to fetch none.
"""

import asyncio
import base64
import hashlib
import platform
import re
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import timedelta
from importlib.metadata import version as installed_version
from importlib.resources import files
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel

from volatility_pipeline.domain.ladder import MODEL_INPUTS
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.serving import bodies
from volatility_pipeline.serving.limits import RATE, Application, Limits
from volatility_pipeline.serving.live import LiveStatus
from volatility_pipeline.serving.metrics import Measured, Metrics
from volatility_pipeline.serving.predictor import (
    LivePrediction,
    LoadedModel,
    Predictor,
    UnavailableError,
    UnknownProductError,
)

SUMMARY = "Will this market be unusually volatile in the next 60 seconds?"
REMARKS = """What is not said with each path: another method is answered with 405 and another path
with 404; with plain text, what is no HTTP or has a head of more than 64 KiB with 400, and more
connections than there may be with 503."""
MOST_STREAMS = 100
FEW_ROWS = 10  # answered sooner than another thread takes over
LOOK_SECONDS = 0.2
REPEAT_SECONDS = 2.0
MOST_FAULTS = 20
LONGEST_NAME = 60
RETRY_SECONDS = {"no_champion": 60, "not_loaded": 10}
"""By reason, after how long to ask again; else a second."""

Responses = dict[int | str, dict[str, Any]]

REFUSED = {"model": bodies.Refusal}
EVERYWHERE: Responses = {
    401: {**REFUSED, "description": "The key lacks or is wrong."},
    421: {**REFUSED, "description": "Asked under a public name, for which there must be a key."},
    429: {**REFUSED, "description": "Too many requests; Retry-After says when to come again."},
}
UNKNOWN: Responses = {404: {**REFUSED, "description": "There is no such product here."}}
UNAVAILABLE: Responses = {503: {**REFUSED, "description": "No answer now; `detail` says why."}}
TOO_MUCH: Responses = {
    400: {**REFUSED, "description": "The body was cut off."},
    408: {**REFUSED, "description": "The body came too slowly."},
    413: {**REFUSED, "description": "The body is too large."},
}


class Service:
    """What the routes share.

    Attributes:
        predictor: Who answers.
        lake: Where drift and gaps are told.
        status: How the live features are doing; None where there are none.
        stopping: Set when the server is told to stop: open streams end.
    """

    def __init__(
        self,
        predictor: Predictor,
        lake: Lake,
        *,
        status: Callable[[], LiveStatus | None] = lambda: None,
        stopping: threading.Event | None = None,
    ) -> None:
        self.predictor = predictor
        self.status = status
        self.stopping = stopping or threading.Event()
        self.metrics = Metrics(predictor, lake, status)
        self.started_at = predictor.clock()
        self._streams = 0
        self._shown: tuple[object, bytes] = (None, b"")
        predictor.on_answer = self.metrics.count

    def live(self, answer: LivePrediction) -> bodies.Live:
        """An answer as it is given out."""
        return bodies.Live(
            product=answer.product,
            probability=answer.probability,
            threshold=answer.threshold,
            decision_threshold=answer.model.decision_threshold,
            is_alert=answer.is_alert,
            model=answer.model.model,
            version=answer.model.version,
            ts=answer.ts,
            age_seconds=round(answer.age_seconds(self.predictor.clock()), 3),
            realized_volatility_60s=answer.realized_volatility_60s,
            seconds_since_tick=answer.seconds_since_tick,
            is_threshold_whole=answer.is_threshold_whole,
            trained_on=answer.model.source,
        )

    def predictions(self, rows: Sequence[bodies.RowBase]) -> bodies.Predictions:
        """What the champions say of rows, in their order."""
        places: dict[str, list[int]] = {}
        for place, one in enumerate(rows):
            places.setdefault(one.product, []).append(place)
        said: dict[int, bodies.Prediction] = {}
        for product, own in places.items():
            model = self.predictor.champion(product)
            answers = _ask(model, self.predictor, [rows[place] for place in own])
            said.update(zip(own, answers, strict=True))
            self.metrics.predictions.labels(product, model.served.model).inc(len(own))
        return bodies.Predictions(predictions=[said[place] for place in range(len(said))])

    def state(self, product: str) -> bodies.State:
        """A product's newest answer, or why there is none."""
        trouble = self.predictor.models(product).trouble
        try:
            live = self.live(self.predictor.newest(product))
        except UnavailableError as error:
            return bodies.State(
                product=product, live=None, refusal=_refusal(error), model_trouble=trouble
            )
        return bodies.State(product=product, live=live, refusal=None, model_trouble=trouble)

    async def stream(self) -> AsyncIterator[bytes]:
        """All products' states as server-sent events: at each change, and every two seconds."""
        loop = asyncio.get_running_loop()
        self._streams += 1
        try:
            while not self.stopping.is_set():
                seen, until = self.predictor.changes, loop.time() + REPEAT_SECONDS
                yield self._event(seen, int(loop.time() / LOOK_SECONDS))
                while (
                    self.predictor.changes == seen
                    and loop.time() < until
                    and not self.stopping.is_set()
                ):
                    await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._streams -= 1

    @property
    def is_full(self) -> bool:
        """Whether as many streams are open as may be."""
        return self._streams >= MOST_STREAMS

    def _event(self, *now: object) -> bytes:
        """The event, made once for all that look at this moment: ages stand in it."""
        if self._shown[0] != now:
            states = [self.state(product).model_dump_json() for product in self.predictor.products]
            self._shown = (now, f"event: states\ndata: [{','.join(states)}]\n\n".encode())
        return self._shown[1]


def create_app(service: Service, *, key: str | None = None, rate: float = RATE) -> Application:
    """The API as an ASGI application, limits and measurement around it.

    Args:
        service: What it serves.
        key: What a request must carry; None for nothing.
        rate: Requests a second and client; 0 for any number.
    """
    app = FastAPI(
        title="volatility",
        summary=SUMMARY,
        description=REMARKS,
        version=installed_version("volatility-pipeline"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # to an address that the asker names
        responses=EVERYWHERE,
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    _say_faults(app)
    _add_predictions(app, service)
    _add_operations(app, service)
    _add_pages(app)
    if key:
        _declare_key(app)
    return Measured(Limits(app, key=key, rate=rate), service.metrics)


def _add_predictions(app: FastAPI, service: Service) -> None:
    predictor = service.predictor

    router = APIRouter(route_class=_QuickRoute)

    @router.post(
        "/predict",
        response_model=bodies.Predictions,
        responses={**UNKNOWN, **UNAVAILABLE, **TOO_MUCH},
        tags=["predictions"],
    )
    async def predict(
        asked: Annotated[bodies.FeatureRows, Body(examples=[bodies.EXAMPLE])],
    ) -> Response:
        """Ask the champions about rows of features.

        A `threshold` that is left out is the live one. Under the policy `training` it is always the
        model's own; the answer says which it was.
        """
        if len(asked.rows) > FEW_ROWS:
            return _json(await run_in_threadpool(service.predictions, asked.rows))
        return _json(service.predictions(asked.rows))

    app.include_router(router)

    @app.get("/predict/{product}", responses={**UNKNOWN, **UNAVAILABLE}, tags=["predictions"])
    async def newest(product: bodies.Product) -> bodies.Live:
        """The newest live probability, if it is not too old to be given."""
        return service.live(predictor.newest(product))

    @app.get(
        "/history/{product}",
        response_model=bodies.History,
        responses=UNKNOWN,
        tags=["predictions"],
    )
    def history(
        product: bodies.Product, minutes: Annotated[int, Query(ge=1, le=60)] = 60
    ) -> Response:
        """What was answered live in the last minutes, at most an hour."""
        since = predictor.clock() - timedelta(minutes=minutes)
        points = [
            bodies.Point(
                ts=answer.ts,
                probability=answer.probability,
                threshold=answer.threshold,
                decision_threshold=answer.model.decision_threshold,
                is_alert=answer.is_alert,
                realized_volatility_60s=answer.realized_volatility_60s,
                model=answer.model.model,
                version=answer.model.version,
            )
            for answer in predictor.history(product, since)
        ]
        return _json(bodies.History(product=product, points=points))

    @app.get(
        "/events",
        response_class=StreamingResponse,
        responses={
            200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
            **UNAVAILABLE,
        },
        tags=["predictions"],
    )
    async def events() -> Response:
        """All products' newest predictions as server-sent events `states`, while one listens."""
        if service.is_full:
            return _unavailable("too_many_streams", f"{MOST_STREAMS} streams are open already.")
        return StreamingResponse(service.stream(), media_type="text/event-stream")


def _json(body: BaseModel) -> Response:
    """An answer that is right by its making: FastAPI would validate it again, in a thread."""
    return Response(body.model_dump_json(), media_type="application/json")


class _QuickRequest(Request):
    """Read by orjson: a thousand rows in a quarter of the time, and no NaN, no endless nesting."""

    async def json(self) -> Any:
        return orjson.loads(await self.body())


class _QuickRoute(APIRoute):
    """Its handler is given such requests."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def quick(request: Request) -> Response:
            return await handle(_QuickRequest(request.scope, request.receive))

        return quick


def _ask(
    model: LoadedModel, predictor: Predictor, rows: Sequence[bodies.RowBase]
) -> list[bodies.Prediction]:
    """What a product's champion says of its rows."""
    served = model.served
    columns = {name: [getattr(row, name) for row in rows] for name in MODEL_INPUTS}
    if served.policy != "trailing":
        columns["threshold"] = [served.constant_threshold] * len(rows)
    elif None in columns["threshold"]:
        live = predictor.trailing_threshold(served.product)
        columns["threshold"] = [live if one is None else one for one in columns["threshold"]]
    if None in columns["threshold"]:
        raise UnavailableError(
            "no_threshold",
            f"{served.product}: no live threshold is known now; give `threshold` in the row.",
        )
    return [
        bodies.Prediction(
            product=served.product,
            probability=probability,
            threshold=threshold,
            decision_threshold=served.decision_threshold,
            is_alert=probability >= served.decision_threshold,
            model=served.model,
            version=served.version,
        )
        for probability, threshold in zip(
            model.ask(columns).tolist(), columns["threshold"], strict=True
        )
    ]


def _add_operations(app: FastAPI, service: Service) -> None:
    predictor = service.predictor

    @app.get("/health", tags=["operation"])
    async def health() -> bodies.Health:
        """Whether the process answers."""
        return bodies.Health(status="alive")

    @app.get("/ready", responses={503: {"model": bodies.Ready}}, tags=["operation"])
    def ready(response: Response) -> bodies.Ready:
        """Whether predictions are to be had: models and data, each with its own truth.

        A product without a champion does not hold the others up. Where no live rows are promised
        (`--source none`), their absence does not either.
        """
        found = {product: _readiness(predictor, product) for product in predictor.products}
        loaded = [one for one in found.values() if one.model_loaded]
        is_loaded = bool(loaded) and all(
            one.model_loaded or one.model_trouble is None for one in found.values()
        )
        is_fresh = bool(loaded) and all(one.data_fresh for one in loaded)
        status = service.status()
        is_ready = is_loaded and (is_fresh or status is None)
        response.status_code = 200 if is_ready else 503
        return bodies.Ready(
            ready=is_ready,
            model_loaded=is_loaded,
            data_fresh=is_fresh,
            source=status.source if status else None,
            products=found,
        )

    @app.get("/version", tags=["operation"])
    def version() -> bodies.Version:
        """What runs here, and which models answer."""
        return bodies.Version(
            version=app.version,
            python=platform.python_version(),
            started_at=service.started_at,
            models={product: _version(predictor, product) for product in predictor.products},
        )

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        tags=["operation"],
    )
    def metrics() -> Response:
        """Prometheus metrics."""
        return Response(service.metrics.text(), media_type="text/plain; version=1.0.0")


def _readiness(predictor: Predictor, product: str) -> bodies.ProductReady:
    models = predictor.models(product)
    age = predictor.age_seconds(product)
    trouble = predictor.row_trouble(product)
    return bodies.ProductReady(
        model_loaded=models.champion is not None,
        version=models.champion.served.version if models.champion else None,
        model_trouble=models.trouble,
        data_fresh=trouble is None,
        data_trouble=trouble,
        age_seconds=None if age is None else round(age, 3),
    )


def _version(predictor: Predictor, product: str) -> bodies.ServedVersion | None:
    models = predictor.models(product)
    if models.champion is None:
        return None
    served = models.champion.served
    return bodies.ServedVersion(
        model=served.model,
        version=served.version,
        sha256=served.stored.sha256,
        trained_until=served.fitted_until,
        trained_on=served.source,
        policy=served.policy,
        challenger=models.challenger.served.version if models.challenger else None,
    )


def _add_pages(app: FastAPI) -> None:
    page = files("volatility_pipeline.serving").joinpath("page.html").read_text()
    guard = {"content-security-policy": _policy(page)}
    manual: list[str] = []

    @app.get("/", include_in_schema=False)
    async def live_page() -> HTMLResponse:
        """The live page."""
        return HTMLResponse(page, headers=guard)

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        """The OpenAPI document as a page."""
        if not manual:
            manual.append(_manual(app.openapi()))
        return HTMLResponse(manual[0], headers={"content-security-policy": _policy(manual[0])})


def _manual(document: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("volatility_pipeline", "serving"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("docs.html.j2").render(document=document)


def _policy(page: str) -> str:
    """What a page may do: run its own script and style, by their hashes, and ask this server."""
    said = ["default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'"]
    for tag, directive in {"script": "script-src", "style": "style-src"}.items():
        hashes = [
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        ]
        said += [" ".join((directive, *hashes))] if hashes else []
    return "; ".join([*said, "img-src data:", "frame-ancestors 'none'"])


def _declare_key(app: FastAPI) -> None:
    """Says in the OpenAPI document that a key is asked for."""
    made = app.openapi

    def with_key() -> dict[str, Any]:
        document = made()
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["key"] = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
        document["security"] = [{"key": []}]
        document["paths"]["/health"]["get"]["security"] = []
        return document

    app.openapi = with_key  # type: ignore[method-assign]


# Faults


def _say_faults(app: FastAPI) -> None:
    @app.exception_handler(UnknownProductError)
    async def unknown(_: Request, error: UnknownProductError) -> Response:
        return JSONResponse(bodies.Refusal(detail=str(error)).model_dump(), 404)

    @app.exception_handler(UnavailableError)
    async def unavailable(_: Request, error: UnavailableError) -> Response:
        return _unavailable(error.reason, str(error), error.age_seconds)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        """What is wrong and where, without what was sent: that may be anything."""
        faults = error.errors()
        said = [
            {
                "loc": [_name(part) for part in fault["loc"]],
                "msg": fault["msg"],
                "type": fault["type"],
            }
            for fault in faults[:MOST_FAULTS]
        ]
        if len(faults) > MOST_FAULTS:
            more = f"{len(faults) - MOST_FAULTS:,} more faults"
            said.append({"loc": ["body"], "msg": more, "type": "more"})
        return JSONResponse({"detail": said}, 422)


def _name(part: int | str) -> int | str:
    """A part of a fault's place, short and printable."""
    if isinstance(part, int):
        return part
    return part[:LONGEST_NAME].encode("utf-8", "replace").decode()


def _refusal(error: UnavailableError) -> bodies.Refusal:
    age = None if error.age_seconds is None else round(error.age_seconds, 3)
    return bodies.Refusal(detail=str(error), reason=error.reason, age_seconds=age)


def _unavailable(reason: str, said: str, age: float | None = None) -> Response:
    body = bodies.Refusal(
        detail=said, reason=reason, age_seconds=None if age is None else round(age, 3)
    )
    after = str(RETRY_SECONDS.get(reason, 1))
    return JSONResponse(body.model_dump(mode="json"), 503, headers={"retry-after": after})
