"""What a teacher is told: peers, golden episodes, skills; `analysis/` has who writes skills."""
