"""What several algorithms share: distillation terms, skill teachers, top tokens, analysis."""
