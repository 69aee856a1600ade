"""Writing tokens: many answers at once, each as if it were alone."""
