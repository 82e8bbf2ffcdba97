"""The tests; `oracle.py` says independently what the tables must hold."""
