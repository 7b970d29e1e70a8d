"""The client: signs artifacts and logs the signatures, and accepts nothing without proof."""
