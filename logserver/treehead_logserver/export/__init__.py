"""The published tree as static files: `tree` reads it, `folder` writes it, `exporter` makes the one show the other."""
