"""Who writes skills about finished episodes: rules, the policy itself, a model at an endpoint."""
