"""The models: a Hugging Face causal LM as RLModule, and the embedded ones with their recipes."""
