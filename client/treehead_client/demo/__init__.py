"""The demonstration: the whole mission with real processes on this machine, every expectation checked."""
