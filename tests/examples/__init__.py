"""Projections as users write them."""
