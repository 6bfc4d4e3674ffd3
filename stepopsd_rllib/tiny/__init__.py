"""The embedded models, laboratory animals: recipe, demonstrations, warm start, weights."""
