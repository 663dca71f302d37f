"""Decode images into pixels, safely."""
