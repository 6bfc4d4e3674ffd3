"""One self-contained HTML page about a run: curves, episodes, the credit of every token."""
