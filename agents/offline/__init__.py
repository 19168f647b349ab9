"""Training on given texts: SFT, DPO, IPO, KTO, pretraining text."""
