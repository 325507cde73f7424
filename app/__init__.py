"""The explorer: pages that show results and compute nothing themselves."""
