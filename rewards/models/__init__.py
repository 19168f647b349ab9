"""Reward models, classifiers and ensembles of them: loading, scores, training and evaluation."""
