"""Chat messages to token ids that extend the previous turn token for token."""
