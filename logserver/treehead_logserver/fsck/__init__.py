"""Holding a log's database against its own entries: `check` does it, each other module is a part of that."""
