"""Training on given texts: SFT, DPO, pretraining text."""
