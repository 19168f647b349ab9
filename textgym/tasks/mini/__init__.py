"""Mini suite: one miniature for each task of GRUE, and arithmetic, in English from our own grammars.

Each task is one module that ends in a :class:`textgym.tasks.mini.miniature.Miniature`. All share one tokenizer and one
base model, both in ``assets/base``; ``base_model.py`` rebuilds them.
"""
