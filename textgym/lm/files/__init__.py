"""Loading and saving of models: weights, adapters, generation configs."""
