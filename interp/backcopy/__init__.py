"""Bigram-backcopy in the small: a chain of characters, a transformer that learns it, what to measure.

The question that trains and measures it is `analyses.bigram_backcopy`.
"""
