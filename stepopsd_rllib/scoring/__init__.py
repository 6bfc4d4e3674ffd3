"""Log-probs of given tokens under a model; what several sequences share is forwarded once."""
