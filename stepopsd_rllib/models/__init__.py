"""The RLModule around a Hugging Face causal LM, its output head, and where models lie."""
