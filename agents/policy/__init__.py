"""The policy: a language model that acts and is trained, its critic, its sessions, its reference."""
