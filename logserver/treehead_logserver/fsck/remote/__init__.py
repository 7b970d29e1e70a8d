"""The check of a tree that somebody serves over HTTP: `check` does it, `tree` judges, `server` fetches."""
