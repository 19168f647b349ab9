"""The policy: a language model that acts and is trained, with its critic, sessions and reference."""
