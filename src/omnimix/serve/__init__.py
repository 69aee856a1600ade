"""The HTTP door: requests become samples, an engine answers them."""
