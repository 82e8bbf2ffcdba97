"""What all commands share: the data root's option, the consoles, the settings."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.settings import Settings, product_names

OUT = Console()
ERRORS = Console(stderr=True)

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", help="The data root (default: VOLATILITY_DATA, else `data`).", show_default=False
    ),
]


def load_settings(data: Path | None) -> Settings:
    """The settings, with the data root that the command line names.

    Raises:
        BadInputError: A setting cannot be read.
    """
    from pydantic import ValidationError

    if data is not None:
        os.environ["VOLATILITY_DATA"] = str(data)
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).upper()
        raise BadInputError(f"{name}: {first['msg']} (it is {first['input']!r}).") from error
    if settings.data.exists() and not settings.data.is_dir():
        raise BadInputError(f"{settings.data}: a file, not a folder; name a data root with --data.")
    return settings


def chosen_products(option: str | None, known: Sequence[str], *, otherwise: str) -> list[str]:
    """The products that `--products` names; all that are known where it is not given.

    Raises:
        BadInputError: One of them is not known; it says `otherwise` of that.
    """
    if option is None:
        return list(known)
    names = list(product_names(option))
    for name in names:
        if name not in known:
            raise BadInputError(f"{name}: {otherwise}.")
    return names


def quiet_dagster() -> None:
    """Lets Dagster's features that are still in beta be used without a word: that is known.

    To be called before `definitions` is imported.
    """
    import dagster as dg

    warnings.filterwarnings("ignore", category=dg.BetaWarning)
