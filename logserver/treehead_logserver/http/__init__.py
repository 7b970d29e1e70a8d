"""The HTTP faces of the log: tiles, Rekor v2, plain `/add`, and what operators look at; one module a face."""
