"""What is known after an episode, or about its kind of task, that the policy was not told."""
