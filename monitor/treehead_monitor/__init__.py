"""The monitor: follows logs, hashes every entry itself, compares what it saw with its peers, and keeps the proof."""
