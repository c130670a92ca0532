"""Fine-tuning, frozen probes and prediction."""
