"""What causal tracing and patching are put together from: noise, places with a meaning, averages."""
