"""Every setting of the system, read from the environment (and a `.env` file) in one place."""

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """The settings of DESIGN's section 9. Names of variables are the fields' in capitals."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore")

    volatility_data: Path = Path("data")
    volatility_first_day: date = date(2025, 1, 1)
    volatility_products: Annotated[tuple[str, ...], NoDecode] = ("BTC-USD", "ETH-USD")
    volatility_max_gap_seconds: int = Field(default=30, ge=1, le=3600)
    volatility_search_seconds: float = Field(default=60.0, ge=0)
    volatility_noise_markets: int = Field(default=10, ge=0)
    volatility_model_days: float = Field(default=30.0, gt=0)
    volatility_retrain_on_drift: Literal["medium", "high", "never"] = "medium"
    volatility_feed_minutes: float = Field(default=15.0, gt=0)
    volatility_unattended: bool = False
    volatility_raw_keep_days: int | None = Field(default=None, ge=1)
    kafka_bootstrap_servers: str = "localhost:9092"
    volatility_topic_partitions: int = Field(default=3, ge=1)
    volatility_topic_retention_hours: float = Field(default=168.0, gt=0)
    volatility_spool_mb: int = Field(default=4096, ge=1)
    volatility_api_key: SecretStr | None = None
    volatility_max_age_seconds: float = Field(default=10.0, gt=0)
    volatility_rate_limit: float = Field(default=1000.0, ge=0)
    mlflow_tracking_uri: str | None = None
    dagster_url: str = "http://localhost:3000"
    alert_webhook_url: SecretStr | None = None
    alert_webhook_format: Literal["json", "slack"] | None = None
    alert_kafka: bool = False

    @field_validator("volatility_products", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return product_names(value) if isinstance(value, str) else value

    @property
    def data(self) -> Path:
        """The data root, absolute."""
        return self.volatility_data.absolute()

    @property
    def tracking_uri(self) -> str:
        """MLflow's store: the one that is set, else SQLite under the data root."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.data / 'mlflow' / 'mlflow.db'}"


def product_names(text: str) -> tuple[str, ...]:
    """The names in a text like `BTC-USD,ETH-USD`."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
