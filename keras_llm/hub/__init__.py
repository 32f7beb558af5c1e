"""KerasHub models and Hugging Face checkpoints as tasks from strings to strings, for the exporter."""
