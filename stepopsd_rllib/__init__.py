"""Credit assignment for multi-turn language-model agents on Ray RLlib."""
