"""Success rates over fixed lists of tasks, and their intervals."""
