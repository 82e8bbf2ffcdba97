"""Sensors: what asks for runs when something has arrived."""
