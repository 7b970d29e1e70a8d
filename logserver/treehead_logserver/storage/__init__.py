"""Where entries, tiles and tree state are kept: `base` is what that asks of an engine, each other module is one."""
