"""The log server: one process, one SQLite file, proofs in milliseconds."""
