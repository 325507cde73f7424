"""Demo models, the recipes that made them, and their report."""
