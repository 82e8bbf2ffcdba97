"""Evaluations and contexts for tests of the reports, and what a reader sees of a page."""

import base64
import html
import re

import numpy as np
import pandas as pd

from volatility_pipeline.domain.controls import Control
from volatility_pipeline.domain.evaluation import Estimate, Evaluation, evaluate
from volatility_pipeline.domain.fold_results import WalkForwardResult, judge_folds
from volatility_pipeline.domain.importance import Importance
from volatility_pipeline.domain.ladder import LADDER
from volatility_pipeline.domain.models import Forecast
from volatility_pipeline.domain.timeline import timeline
from volatility_pipeline.domain.walk_forward import FoldForecasts, WalkForward
from volatility_pipeline.reports.blocks import Context
from volatility_pipeline_tests.split_frames import role

BLURS = (0, 0.5, 0.4, 0.1, 0.6, 0.2, 0.25, 0.3)


def answers(rows: pd.DataFrame, *, seed: int = 1) -> list[Forecast]:
    """Every rung answers with persistence, more or less blurred."""
    rng = np.random.default_rng(seed)
    ratio = np.log(rows["realized_volatility_60s"] / rows["threshold"]).to_numpy()
    made = []
    for name, blur in zip(LADDER, BLURS, strict=True):
        score = ratio + blur * rng.normal(size=len(rows)) if blur else 0 * ratio
        made.append(Forecast(name, score, 1 / (1 + np.exp(-score)), 0.4))
    return made


def judge(split: pd.DataFrame, product: str = "BTC-USD") -> Evaluation:
    """The evaluation of those answers."""
    forecasts = answers(role(split, "test"))
    return evaluate(split, forecasts, product_id=product, policy="trailing", seed=1, resamples=50)


def two_folds(split: pd.DataFrame) -> WalkForwardResult:
    """A walk-forward of two folds, whose test rows are the split's in halves; three were asked."""
    test = role(split, "test")
    halves = (test.iloc[: len(test) // 2], test.iloc[len(test) // 2 :])
    others = split[split["role"] != "test"]
    runs = [
        FoldForecasts(number, pd.concat([others, half]), tuple(answers(half, seed=number)))
        for number, half in enumerate(halves, 1)
    ]
    walk = WalkForward("expanding", 3, (), "2 of 3 folds: the rest is short")
    return judge_folds(walk, runs, policy="trailing", seed=1, resamples=50)


def full_context(split: pd.DataFrame) -> Context:
    """All that a report can say beside the results."""
    test = role(split, "test")
    return Context(
        is_simulated=True,
        dropped={"embargo after a cut": 12_600, "future unknown": 412},
        provenance={
            "source": "simulated",
            "days": ["2026-03-01", "2026-03-02"],
            "library versions": {"xgboost": "3.2.0"},
            "fingerprint": "<b>9f86</b>",
            "data_fingerprint": "49f55a22",
            "trained_until": "2026-03-02 10:00:00",
        },
        notes={"har_logistic": ["Not calibrated: 3 of 100 validation rows are spikes."]},
        dropped_columns={"xgboost": ["volume_velocity_30s"]},
        parameters={"xgboost": {"model__max_depth": 2}},
        versions={name: str(version) for version, name in enumerate(LADDER, 1)},
        folds=two_folds(split),
        controls=(
            Control("permuted labels", True, {}, "The lift is 1 & no more."),
            Control("future truncation", False, {}, "3 rows changed."),
            Control("boundary", None, {}, "Not judged: too few rows."),
        ),
        importances=tuple(
            Importance(name, column, Estimate(0.02 / place, 0.01 / place, 0.03 / place), gain)
            for name, gain in (("har_logistic", None), ("xgboost", 0.125))
            for place, column in enumerate(LADDER[name].columns, 1)
        ),
        timeline=timeline(
            test["ts"].to_numpy(),
            test["future_volatility_60s"].to_numpy(),
            test["threshold"].to_numpy(),
            [each for each in answers(test) if each.name in ("har_logistic", "xgboost")],
            points=100,
        ),
    )


def text_of(page: str) -> str:
    """The words that a reader sees, on one line."""
    body = re.sub(r"<style>.*?</style>", "", page[page.index("<body>") :], flags=re.DOTALL)
    return html.unescape(" ".join(re.sub(r"<[^>]+>", " ", body).split()))


def plots_of(page: str) -> dict[str, str]:
    """The SVG of each plot, by its alternative text."""
    images = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)">', page)
    return {html.unescape(alt): base64.b64decode(data).decode() for data, alt in images}


def pages_of(pdf: bytes) -> list[str]:
    """The ASCII words of each page of an uncompressed PDF, on one line; a blank for another."""
    pages = re.findall(rb"stream\r?\n1 0 0 1 0 0 cm(.*?)endstream", pdf, flags=re.DOTALL)
    shown = [re.findall(rb"\(((?:\\.|[^\\()])*)\) Tj", page) for page in pages]
    plain = [re.sub(rb"\\(\d{3})", b" ", b" ".join(words)) for words in shown]
    return [" ".join(re.sub(rb"\\(.)", rb"\1", words).decode("latin-1").split()) for words in plain]
