"""Pages that a person reads, made from results and nothing else. No measuring, no files."""
