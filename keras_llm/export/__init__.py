"""From a trained model to what is deployed."""

# What is written beside the exported models of a directory (`deployment.py`); here, where no framework is loaded for it.
NAMES = (
    "models.config",
    "batching.config",
    "monitoring.config",
    "Dockerfile",
    "docker-compose.yml",
    "kubernetes.yaml",
    "README.md",
)
