"""What the authors' programs do, for comparison only; nothing of the package imports it."""
