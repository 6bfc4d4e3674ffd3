"""The training step: agent's config, Algorithm, Learner, group sampling, weight sync."""
