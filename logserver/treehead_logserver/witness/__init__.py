"""The witnesses as the log sees them: it asks them to cosign, and believes nothing of their answers but signatures."""
