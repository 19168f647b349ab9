"""Diagnostic tasks: small language tasks that isolate one difficulty each, and whose optimum is known exactly.

They apply bsuite's idea (Osband 2020, arXiv 1908.03568) to language. Vocabularies and horizons are so small that every
response can be enumerated. The reference is a stock GPT-2 that equals a Markov chain exactly (see ``model.py``), and
the policy starts as its copy, so that regret measures the algorithm and not the architecture. Every task is a function
of its difficulty: ``gym.make("textgym/Noise-v1", sigma=2.0)``.
"""
