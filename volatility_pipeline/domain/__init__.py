"""Pure code: parsing, simulation, splits, models, evaluation. No Dagster, no MLflow, no DuckDB, no environment."""
