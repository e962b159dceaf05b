"""Measures muxs and what people would use instead, side by side. `bench/run` starts it."""
