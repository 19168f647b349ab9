"""Rewards that ask a server: a language model that judges texts, alone or in pairs, and a remote reward."""
