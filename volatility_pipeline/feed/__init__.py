"""Asyncio services: they know the exchange's protocol and Kafka, and nothing of Dagster."""
