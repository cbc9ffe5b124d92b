"""Losses that several tasks share, each as a module around its model. Their options are in `options`, without torch."""
