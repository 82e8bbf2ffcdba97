"""Pure code: no Dagster, no MLflow, no DuckDB, no Kafka, no environment; frames in, facts out."""
