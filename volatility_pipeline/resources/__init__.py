"""One class per outside thing: the lake's files, the SQL warehouse, the model tracking."""
