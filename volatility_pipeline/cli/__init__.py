"""The command line: one module per kind of command; `app.py` joins them."""
